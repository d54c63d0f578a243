{#- A variable that settings, the catalogue of features or captured tables decide. A prepared project has them as vars;
    otherwise the plugin answers, by the same functions (fraud_lakehouse/transform/variables.py), unless --vars does. While
    dbt parses, dbt_project.yml says it, and in a unit test, which is about its defaults, but for the catalogue. -#}
{% macro setting(name, default=none) %}
    {%- set is_given = name in (invocation_args_dict.get('vars') or {}) -%}
    {%- set is_default = lake_is_unit_test() and name not in ['features', 'streams'] -%}
    {%- if not execute or var('is_prepared', false) or is_given or is_default -%}
        {{ return(var(name, default)) }}
    {%- endif -%}
    {{ return(lake_call('setting', {'name': name, 'default': default})) }}
{% endmacro %}

{#- Whether windows with zero counts are a table: what a model is has to be known while dbt parses. -#}
{% macro stores_window_spine() %}
    {{ return(var('window_spine') or env_var('FRAUD_WINDOW_SPINE', '') | lower in ['1', 'true', 't', 'yes', 'y', 'on']) }}
{% endmacro %}
