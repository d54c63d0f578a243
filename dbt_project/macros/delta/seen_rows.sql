{#- What the model being built has read before, as a mirror in memory (fraud_lakehouse/transform/mirror.py): the
    complement of new_rows. Of `this`: all its rows. `columns`: name -> SQL expression of what is kept of a row.
    In a unit test: the given rows. -#}

{#- The rows themselves. since: [column, SQL of its least value]; where: SQL of the rows that are kept;
    newest: all rows of the newest version instead, of a relation whose new rows are not asked for; is_kept: whether in
    memory, or read from the table's files each time, as far as `since` does not pass over them. -#}
{% macro seen_rows(relation, columns, where=none, since=none, newest=false, is_kept=true) %}
    {{ return(lake_seen(relation, {'columns': columns, 'where': where}, {'since': since, 'newest': newest, 'is_kept': is_kept})) }}
{% endmacro %}

{#- Their totals by key (names of columns). totals: name -> SQL aggregate that merges two partial results, of which
    `columns` has those of a single row under the same names. One row for each key. where: SQL of the rows that count. -#}
{% macro seen_totals(relation, key, columns, totals, where=none) %}
    {{ return(lake_seen(relation, {'columns': columns, 'where': where, 'key': key, 'totals': totals}, {})) }}
{% endmacro %}

{#- Those rows that have one of the keys, and a few that only look like it: compare the keys. by: SQL expressions over
    `columns`; keys: SQL of a relation with as many columns of the same types; rows with a null among them have none. -#}
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

{#- The same of a unit test's rows. -#}
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
