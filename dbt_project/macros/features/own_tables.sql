{#- Window tables (`tables` of a source in the catalogue): aggregates of one key over one window. Size, measures and
    aggregates come from the catalogue. -#}

{#- Seconds of the windows of such a table; while dbt parses, any number. -#}
{% macro window_seconds_of(table) %}
    {%- set features = features_of(table) -%}
    {{ return(features[0].seconds if features else 1) }}
{% endmacro %}

{#- Names of its features. -#}
{% macro feature_names_of(table) %}
    {{ return(features_of(table) | map(attribute='name') | list) }}
{% endmacro %}

{#- A feature as SQL over rows with the source's columns; `over` is the inside of an OVER clause, or none for a GROUP
    BY. -#}
{% macro feature_of_rows(feature, over=none) -%}
    {%- set source = setting('streams')[feature.stream] -%}
    {{ aggregate_of(feature.aggregate, source.measures[feature.measure].expression, source.time, over=over) }}
{%- endmacro %}
