{#- The rows that the model being built has read before, as cached state in memory
    (fraud_lakehouse/transform/row_cache.py): the complement of new_rows. Of `this`: all its rows. `columns`: name -> SQL
    expression of the cached columns. In a unit test: the given rows. -#}

{#- The rows themselves. since: [column, SQL of its least value]; where: SQL condition for cached rows; newest: instead
    all rows of the newest version, for a relation whose new rows are not read; is_kept: whether they are in memory, or
    read from the table's files each time, pruned by `since`. -#}
{% macro seen_rows(relation, columns, where=none, since=none, newest=false, is_kept=true) %}
    {{ return(lake_seen(relation, {'columns': columns, 'where': where}, {'since': since, 'newest': newest, 'is_kept': is_kept})) }}
{% endmacro %}

{#- Their totals by key (names of columns). totals: name -> SQL aggregate that merges two partial aggregates; `columns`
    has those of a single row under the same names. One row for each key. where: SQL condition for rows that count. -#}
{% macro seen_totals(relation, key, columns, totals, where=none) %}
    {{ return(lake_seen(relation, {'columns': columns, 'where': where, 'key': key, 'totals': totals}, {})) }}
{% endmacro %}

{#- The rows that have one of the keys, and some false positives, so compare the keys. by: SQL expressions over
    `columns`; keys: SQL of a relation with the same number and types of columns; rows with a null among them have no
    key. -#}
{% macro seen_by_key(relation, columns, by, keys) %}
    {{ return(lake_seen(relation, {'columns': columns}, {'by': by, 'keys': keys})) }}
{% endmacro %}

{% macro lake_seen(relation, shape, options) %}
    {%- if not execute -%}
        {{ return(relation) }}
    {%- endif -%}
    {%- if lake_is_unit_test() -%}
        {{ return(lake_given(relation, shape)) }}
    {%- endif -%}
    {%- set call = lake_consumer() -%}
    {%- do call.update({'upstream': [relation.schema, relation.identifier], 'shape': shape, 'newest': false}) -%}
    {%- do call.update(options) -%}
    {{ return(lake_call('seen', call)) }}
{% endmacro %}

{#- The same for a unit test's rows. -#}
{% macro lake_given(relation, shape) -%}
    (
        select
            {% for name in shape.get('key', []) %}{{ name }}, {% endfor -%}
            {% for name, expression in shape.get('totals', {}).items() %}{{ expression }} as {{ name }}{{ ', ' if not loop.last }}{% endfor -%}
            {{ '*' if not shape.get('totals') }}
        from (
            select {% for name, expression in shape.columns.items() %}{{ expression }} as {{ name }}{{ ', ' if not loop.last }}{% endfor %}
            from {{ relation }}
            {{ 'where ' ~ shape.where if shape.where }}
        ) as given
        {{ 'group by ' ~ (shape.key | join(', ')) if shape.get('key') }}
    )
{%- endmacro %}
