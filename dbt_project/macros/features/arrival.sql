{#- Features that are told when their row arrives (past: arrived and committed in the catalogue): counts, sums and means
    of the rows known by then, in windows that end at the row, or of all before it. Models compute the totals below by
    whatever says which rows count, and the features of them. -#}

{#- The totals these features need, each once, as [total, measure, seconds]: n (rows; with a measure those that have it)
    and s (its sum); measure none: of all rows; seconds none: of all time. -#}
{% macro arrival_parts(features) %}
    {{ return(parts_of(features, {'count': ['n'], 'sum': ['s'], 'mean': ['n', 's']})) }}
{% endmacro %}

{#- The column of a total. -#}
{% macro part_name(total, measure, seconds) %}
    {{ return(total ~ '_' ~ (measure or '') ~ '_' ~ (seconds or 'ever')) }}
{% endmacro %}

{#- Totals as columns behind others; `value`: what each is instead. -#}
{% macro part_columns(parts, value='') -%}
    {%- for total, measure, seconds in parts %},
        {{ value ~ ' as ' if value }}{{ part_name(total, measure, seconds) }}
    {%- endfor %}
{%- endmacro %}

{#- The sizes of their windows, in seconds. -#}
{% macro part_windows(parts) %}
    {{ return(parts | map(attribute=2) | reject('none') | unique | list) }}
{% endmacro %}

{#- The measures of these features: name -> SQL expression over a row, null where it is of an excluded amount. -#}
{% macro arrival_measures(features) %}
    {%- set found = {} -%}
    {%- for feature in features if feature.measure -%}
        {%- set source = setting('streams')[feature.stream] -%}
        {%- set measure = source.measures[feature.measure] -%}
        {%- set counted = 'case when is_amount_excluded is not true then ' ~ measure.expression ~ ' end' -%}
        {%- do found.update({feature.measure: counted if source.amount in measure.columns else measure.expression}) -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}

{#- Each feature from its totals, as columns in front of others. -#}
{% macro arrival_features(features) -%}
    {%- for feature in features %}
        {%- set n = part_name('n', feature.measure, feature.seconds) -%}
        {%- set s = part_name('s', feature.measure, feature.seconds) -%}
        {%- if feature.aggregate == 'count' %}
        {{ n }}
        {%- elif feature.aggregate == 'sum' %}
        cast(coalesce({{ s }}, 0) as double)
        {%- else %}
        case when {{ n }} > 0 then cast({{ s }} as double) / {{ n }} end
        {%- endif %} as {{ feature.name }},
    {%- endfor %}
{%- endmacro %}
