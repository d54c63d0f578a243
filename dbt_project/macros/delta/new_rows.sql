{#- The rows added to `relation` since the model being built (or `consumer`, for views between) last
    committed; all of them on a first or full build. In a unit test: the given rows. -#}
{% macro new_rows(relation, consumer=none) %}
    {%- if not execute or relation.is_cte or lake_is_unit_test() -%}
        {{ return(relation) }}
    {%- endif -%}
    {%- set call = lake_consumer(consumer) -%}
    {%- do call.update({'upstream': [relation.schema, relation.identifier], 'reader': model.name}) -%}
    {{ return(lake_call('new_rows', call)) }}
{% endmacro %}

{#- Whether only new rows are asked for and `this` can be read. -#}
{% macro is_incremental_build() %}
    {%- if not execute or lake_is_unit_test() -%}
        {{ return(false) }}
    {%- endif -%}
    {{ return(lake_call('plan', lake_consumer())) }}
{% endmacro %}

{#- Have the model being built from all rows after all, new_rows included; answers what is_incremental_build then says. -#}
{% macro build_from_all() %}
    {%- set call = lake_consumer() -%}
    {%- do call.update({'full_refresh': true}) -%}
    {{ return(lake_call('plan', call)) }}
{% endmacro %}

{% macro lake_is_unit_test() %}
    {{ return(model.resource_type == 'unit_test') }}
{% endmacro %}
