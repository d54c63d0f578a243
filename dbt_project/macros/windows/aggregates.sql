{#- One aggregate of the catalogue by its name, as SQL: count, sum, mean, stddev (sample), min, max, median, mad,
    percentile_N, distinct, first, last, seconds_since_last, is_first. `over` is the inside of an over clause, or none
    for a group by; `at` is the moment seconds_since_last is told at. Nulls of the measure never count; of equal times
    the smallest measure is first and the largest last. -#}
{% macro aggregate_of(aggregate, measure, time, over=none, at=none) -%}
    {%- set window = ' over (' ~ over ~ ')' if over else '' -%}
    {%- set plain = {
        'count': 'count', 'sum': 'sum', 'mean': 'avg', 'stddev': 'stddev_samp', 'min': 'min', 'max': 'max', 'median': 'median',
    } -%}
    {%- if aggregate in plain -%}
        {{ plain[aggregate] }}({{ measure }}){{ window }}
    {%- elif aggregate == 'distinct' -%}
        count(distinct {{ measure }}){{ window }}
    {%- elif aggregate == 'mad' -%}
        {{ median_absolute_deviation(measure) }}{{ window }}
    {%- elif aggregate.startswith('percentile_') -%}
        {{ percentile(measure, aggregate[11:] | int / 100) }}{{ window }}
    {%- elif aggregate in ('first', 'last') -%}
        (
            {{- 'min' if aggregate == 'first' else 'max' }}(
                case when {{ measure }} is not null then {{ struct_of([['at', microseconds(time)], ['value', measure]]) }} end
            ){{ window -}}
        ).value
    {%- elif aggregate == 'seconds_since_last' -%}
        ({{ microseconds(at or time) }} - max({{ microseconds(time) }}){{ window }}) / 1e6
    {%- elif aggregate == 'is_first' -%}
        count(*){{ window }} = 0
    {%- else -%}
        {{ exceptions.raise_compiler_error("unknown aggregate '" ~ aggregate ~ "'") }}
    {%- endif -%}
{%- endmacro %}

{#- Whole microseconds since 1970: exact bounds, and quicker to compare than timestamp minus interval. -#}
{% macro microseconds(time) %}{{ return(adapter.dispatch('microseconds')(time)) }}{% endmacro %}
{% macro default__microseconds(time) %}epoch_us({{ time }}){% endmacro %}
{% macro spark__microseconds(time) %}unix_micros(cast({{ time }} as timestamp)){% endmacro %}

{#- The value that a share of the values does not exceed, interpolated. -#}
{% macro percentile(measure, share) %}{{ return(adapter.dispatch('percentile')(measure, share)) }}{% endmacro %}
{% macro default__percentile(measure, share) %}quantile_cont({{ measure }}, {{ share }}){% endmacro %}
{% macro spark__percentile(measure, share) %}percentile({{ measure }}, {{ share }}){% endmacro %}

{#- Median of the distances from the median. -#}
{% macro median_absolute_deviation(measure) %}{{ return(adapter.dispatch('median_absolute_deviation')(measure)) }}{% endmacro %}
{% macro default__median_absolute_deviation(measure) %}mad({{ measure }}){% endmacro %}
{% macro spark__median_absolute_deviation(measure) -%}
    {{ exceptions.raise_compiler_error('Spark has no median absolute deviation: leave mad out of the catalogue') }}
{%- endmacro %}

{#- A struct from [name, expression] pairs; structs compare by their fields in order. -#}
{% macro struct_of(pairs) %}{{ return(adapter.dispatch('struct_of')(pairs)) }}{% endmacro %}
{% macro default__struct_of(pairs) -%}
    struct_pack({% for name, value in pairs %}{{ name }} := {{ value }}{{ ', ' if not loop.last }}{% endfor %})
{%- endmacro %}
{% macro spark__struct_of(pairs) -%}
    named_struct({% for name, value in pairs %}'{{ name }}', {{ value }}{{ ', ' if not loop.last }}{% endfor %})
{%- endmacro %}
