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
    {%- set source = setting('feature_sources')[feature.source] -%}
    {{ aggregate_of(feature.aggregate, source.measures[feature.measure].expression, source.time, over=over) }}
{%- endmacro %}

{#- The columns that mirrors keep of a payment, those of a key, and those that measures of these features are computed
    from. -#}
{% macro payment_columns_for(features, key=[]) %}
    {%- set columns = payment_columns() -%}
    {%- for column in key -%}
        {%- do columns.update({column: column}) -%}
    {%- endfor -%}
    {%- for feature in features -%}
        {%- for column in setting('feature_sources')[feature.source].measures[feature.measure].columns -%}
            {%- do columns.update({column: column}) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(columns) }}
{% endmacro %}
