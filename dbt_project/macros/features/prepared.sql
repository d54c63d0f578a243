{#- The features of the catalogue that are in a table, from the JSON list `features`. -#}
{% macro features_of(table) %}
    {{ return(fromjson(setting('features', '[]')) | selectattr('table', 'equalto', table) | list) }}
{% endmacro %}

{#- How far back these features read, in seconds: the longest window plus its measure's delay. -#}
{% macro longest_window(features) %}
    {%- set reaches = [0] -%}
    {%- for feature in features if feature.seconds is not none -%}
        {%- do reaches.append(delay_seconds(feature) + feature.seconds) -%}
    {%- endfor -%}
    {{ return(reaches | max) }}
{% endmacro %}

{#- The input columns of the blocks, from `relation` (the source's rows with `is_evaluated`, whether a row's features
    are needed; all rows count): _row (a number), _at (microseconds), the key columns, and a column for each measure.
    Measures with decimals also as scaled integers and, with `squares`, their squares, so that sums are exact in any
    order. A value that does not fit 18 digits, or is not a number, is null there. -#}
{% macro prepared_rows(source, relation, carried=[], squares=true) -%}
    select
        {{ row_numbered(source.id) }} as _row,
        is_evaluated,
        {{ source.id }},
        {{ source.time }},
        {{ microseconds(source.time) }} as _at
        {%- for column in (carried + feature_keys(source)) | unique %},
        {{ column }}
        {%- endfor %}
        {%- for name, measure in source.measures.items() %}
        {%- if measure.decimals is none %}
        {%- if name not in feature_keys(source) %},
        {{ measure.expression }} as {{ name }}
        {%- endif %}
        {%- else %},
        cast({{ measure.expression }} as double) as {{ name }},
        units_of_{{ name }}
        {%- if squares %},
        cast(units_of_{{ name }} as {{ wide_integer() }}) * units_of_{{ name }} as square_of_{{ name }}
        {%- endif %}
        {%- endif %}
        {%- endfor %}
    from (
        select
            *
            {%- for name, measure in source.measures.items() if measure.decimals is not none %},
            {{ try_cast('round(cast(' ~ measure.expression ~ ' as double) * ' ~ 10 ** measure.decimals ~ ')', 'bigint') }}
            as units_of_{{ name }}
            {%- endfor %}
        from {{ relation }}
    ) as in_units
{%- endmacro %}

{#- Every column that is part of some entity's key. -#}
{% macro feature_keys(source) %}
    {%- set found = [] -%}
    {%- for entity in source.entities.values() -%}{%- do found.extend(entity.key) -%}{%- endfor -%}
    {{ return(found | unique | list) }}
{% endmacro %}

{#- A condition: the row's key of this entity is complete and, if `touched`, belongs to an evaluated row. -#}
{% macro of_entity(prepared, key, touched) -%}
    {{ key | join(' is not null and ') }} is not null
    {%- if touched %}
        and ({{ key | join(', ') }}) in (select {{ as_one_value(key) }} from {{ prepared }} where is_evaluated)
    {%- endif %}
{%- endmacro %}

{#- Columns as the single value selected by the subquery of `(a, b) in (...)`. -#}
{% macro as_one_value(columns) -%}
    {{ 'row(' if columns | length > 1 }}{{ columns | join(', ') }}{{ ')' if columns | length > 1 }}
{%- endmacro %}

{#- A number for each row, the same wherever it is read; `identity` has the columns that identify a row. -#}
{% macro row_numbered(identity) %}{{ return(adapter.dispatch('row_numbered')(identity)) }}{% endmacro %}
{% macro default__row_numbered(identity) %}row_number() over (){% endmacro %}
{% macro spark__row_numbered(identity) %}row_number() over (order by {{ identity }}){% endmacro %}

{#- A CTE that is computed once, because it is read often (and has row numbers). -#}
{% macro computed_once() %}{{ return(adapter.dispatch('computed_once')()) }}{% endmacro %}
{% macro default__computed_once() %}materialized{% endmacro %}
{% macro spark__computed_once() %}{% endmacro %}

{#- The widest integer type. -#}
{% macro wide_integer() %}{{ return(adapter.dispatch('wide_integer')()) }}{% endmacro %}
{% macro default__wide_integer() %}hugeint{% endmacro %}
{% macro spark__wide_integer() %}decimal(38, 0){% endmacro %}
