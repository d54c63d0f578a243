{#- The schema is the layer: a model in models/gold is in gold. -#}
{% macro generate_schema_name(custom_schema_name, node) %}
    {{- custom_schema_name if custom_schema_name else target.schema -}}
{% endmacro %}
