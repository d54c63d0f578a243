{#- A variable set by settings, the catalogue of features or captured tables. A prepared project has it in vars;
    otherwise it comes from --vars, or from the plugin by the same functions (fraud_lakehouse/transform/variables.py).
    While dbt parses, and in unit tests (except for the catalogue), it is the default in dbt_project.yml. -#}
{% macro setting(name, default=none) %}
    {%- set is_given = name in (invocation_args_dict.get('vars') or {}) -%}
    {%- set is_default = lake_is_unit_test() and name not in ['features', 'streams'] -%}
    {%- if not execute or var('is_prepared', false) or is_given or is_default -%}
        {{ return(var(name, default)) }}
    {%- endif -%}
    {{ return(lake_call('setting', {'name': name, 'default': default})) }}
{% endmacro %}

{#- Whether windows with zero counts are a table; a model's materialization must be known while dbt parses. -#}
{% macro stores_window_spine() %}
    {{ return(var('window_spine') or env_var('FRAUD_WINDOW_SPINE', '') | lower in ['1', 'true', 't', 'yes', 'y', 'on']) }}
{% endmacro %}
