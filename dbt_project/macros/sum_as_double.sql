{#- The sum of a column of `relation` (the replica of a captured table), as a double: exact before the cast. Decimals
    so large that ten billion of them could overflow the sum's type are summed as doubles instead. -#}
{% macro sum_as_double(column, relation) -%}
    {%- set small = [] -%}
    {%- set kind = setting('captured_columns', {}).get(relation.identifier, {}).get(column, '') -%}
    {%- if not lake_is_unit_test() and kind.lower().startswith('decimal') -%}
        {%- set precision, scale = kind[8:-1].split(',') -%}
        {%- set digits = 28 - scale | int -%}
        {%- if precision | int - scale | int > digits -%}
            {%- do small.append('abs(' ~ column ~ ') < cast(1e' ~ digits ~ ' as double)') -%}
        {%- endif -%}
    {%- endif -%}
    {%- if small -%}
        (
            coalesce(cast(sum(case when {{ small[0] }} then {{ column }} end) as double), 0)
            + coalesce(sum(case when not {{ small[0] }} then cast({{ column }} as double) end), 0)
        )
    {%- else -%}
        cast(sum({{ column }}) as double)
    {%- endif -%}
{%- endmacro %}
