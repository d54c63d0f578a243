{#- The rows added to `relation` since the last commit of the model being built (or `consumer`, for views in between);
    all rows in a first or full build. In a unit test: the given rows. -#}
{% macro new_rows(relation, consumer=none) %}
    {%- if not execute or relation.is_cte or lake_is_unit_test() -%}
        {{ return(relation) }}
    {%- endif -%}
    {%- set call = lake_consumer(consumer) -%}
    {%- do call.update({'upstream': [relation.schema, relation.identifier], 'reader': model.name}) -%}
    {{ return(lake_call('new_rows', call)) }}
{% endmacro %}

{#- Whether the build is incremental: it reads only new rows, and `this` can be read. A model that is only compiled is
    the incremental one, or the full one with --full-refresh.
    stored: the stored rows must have this shape, or the model is built from all rows: a dict of `source` (a relation),
    `names` (of its columns -> here, in the same type) and `exactly` (no others, same order). -#}
{% macro is_incremental_build(stored=none) %}
    {%- if not execute or lake_is_unit_test() -%}
        {{ return(false) }}
    {%- endif -%}
    {%- set call = lake_consumer() -%}
    {%- if stored -%}
        {%- do call.update({'stored': {
            'source': [stored.source.schema, stored.source.identifier],
            'names': stored.names,
            'exactly': stored.exactly,
        }}) -%}
    {%- endif -%}
    {{ return(lake_call('plan', call)) }}
{% endmacro %}

{#- Whether an incremental build must read all rows after all: if each of `queries`, over the bronze table and new_rows,
    has a row. Call it after is_incremental_build and new_rows, then call new_rows again. Always false in a model that
    is only compiled: whoever runs it evaluates the queries. -#}
{% macro full_when(queries) %}
    {%- if not execute or lake_is_unit_test() -%}
        {{ return(false) }}
    {%- endif -%}
    {%- set call = lake_consumer() -%}
    {%- do call.update({'queries': queries}) -%}
    {{ return(lake_call('full_when', call)) }}
{% endmacro %}

{#- The single value of a query, as a literal inserted when the SQL is run: literals prune files, joins do not. type: of
    the value. In a unit test: the query itself. -#}
{% macro query_value(query, type) %}
    {%- if not execute or lake_is_unit_test() -%}
        {{ return('cast((' ~ query ~ ') as ' ~ type ~ ')') }}
    {%- endif -%}
    {%- set call = lake_consumer() -%}
    {%- do call.update({'query': query, 'type': type}) -%}
    {{ return(lake_call('value', call)) }}
{% endmacro %}

{% macro lake_is_unit_test() %}
    {{ return(model is mapping and model.resource_type == 'unit_test') }}
{% endmacro %}
