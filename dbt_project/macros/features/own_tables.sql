{#- Tables of their own (`tables` of a source in the catalogue): aggregates of one key over one window, whose size, measures
    and aggregates come from the catalogue's entries. -#}

{#- Seconds of the windows of such a table; while dbt parses, any number. -#}
{% macro window_seconds_of(table) %}
    {%- set features = features_of(table) -%}
    {{ return(features[0].seconds if features else 1) }}
{% endmacro %}

{#- Names of its features. -#}
{% macro feature_names_of(table) %}
    {{ return(features_of(table) | map(attribute='name') | list) }}
{% endmacro %}

{#- A feature as SQL over rows with the source's columns; `over` is the inside of an over clause, or none for a group by. -#}
{% macro feature_of_rows(feature, over=none) -%}
    {%- set source = setting('streams')[feature.stream] -%}
    {{ aggregate_of(feature.aggregate, source.measures[feature.measure].expression, source.time, over=over) }}
{%- endmacro %}
