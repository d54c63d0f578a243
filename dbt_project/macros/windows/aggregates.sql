{#- One aggregate of the catalogue by its name, as SQL: count, sum, mean, stddev (sample), min, max, median, mad,
    percentile_N, distinct, first, last, seconds_since_last, is_first. `over` is the inside of an OVER clause, or none
    for a GROUP BY; `at` is the time for seconds_since_last. Nulls of the measure never count; of equal times, the
    smallest measure is first and the largest last. -#}
{% macro aggregate_of(aggregate, measure, time, over=none, at=none) -%}
    {%- set window = ' over (' ~ over ~ ')' if over else '' -%}
    {%- set plain = {
        'count': 'count', 'sum': 'sum', 'mean': 'avg', 'stddev': 'stddev_samp', 'min': 'min', 'max': 'max',
    } -%}
    {%- if aggregate in plain -%}
        {{ plain[aggregate] }}({{ measure }}){{ window }}
    {%- elif aggregate == 'distinct' -%}
        {{ count_distinct(measure, window) }}
    {%- elif aggregate == 'median' -%}
        {{ median(measure) }}{{ window }}
    {%- elif aggregate == 'mad' -%}
        {{ median_absolute_deviation(measure, window) }}
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

{#- Whole microseconds since 1970: exact bounds, and faster to compare than timestamp minus interval. -#}
{% macro microseconds(time) %}{{ return(adapter.dispatch('microseconds')(time)) }}{% endmacro %}
{% macro default__microseconds(time) %}epoch_us({{ time }}){% endmacro %}
{% macro spark__microseconds(time) %}unix_micros(cast({{ time }} as timestamp)){% endmacro %}

{#- A quantile, interpolated. -#}
{% macro percentile(measure, share) %}{{ return(adapter.dispatch('percentile')(measure, share)) }}{% endmacro %}
{% macro default__percentile(measure, share) %}quantile_cont({{ measure }}, {{ share }}){% endmacro %}
{% macro spark__percentile(measure, share) %}percentile({{ measure }}, {{ share }}){% endmacro %}

{#- The median. Spark's median does not support frames. -#}
{% macro median(measure) %}{{ return(adapter.dispatch('median')(measure)) }}{% endmacro %}
{% macro default__median(measure) %}median({{ measure }}){% endmacro %}
{% macro spark__median(measure) %}percentile({{ measure }}, 0.5){% endmacro %}

{#- The number of distinct values; `window` is an OVER clause, or empty. Spark has no distinct count over a window. -#}
{% macro count_distinct(measure, window) %}{{ return(adapter.dispatch('count_distinct')(measure, window)) }}{% endmacro %}
{% macro default__count_distinct(measure, window) %}count(distinct {{ measure }}){{ window }}{% endmacro %}
{% macro spark__count_distinct(measure, window) %}size(collect_set({{ measure }}){{ window }}){% endmacro %}

{#- Median of the absolute deviations from the median; `window` is an OVER clause, or empty. Spark has no such
    aggregate: it is computed from the sorted values, with each list bound to a name by a transform of a list that
    contains only it. -#}
{% macro median_absolute_deviation(measure, window) %}
    {{- return(adapter.dispatch('median_absolute_deviation')(measure, window)) -}}
{% endmacro %}
{% macro default__median_absolute_deviation(measure, window) %}mad({{ measure }}){{ window }}{% endmacro %}
{% macro spark__median_absolute_deviation(measure, window) -%}
    {%- set values = 'array_sort(collect_list(' ~ measure ~ ')' ~ window ~ ')' -%}
    {%- set middle = sorted_median('sorted') -%}
    {%- set distances = 'array_sort(transform(sorted, value -> abs(value - ' ~ middle ~ ')))' -%}
    transform(transform(array({{ values }}), sorted -> {{ distances }}), sorted -> {{ sorted_median('sorted') }})[0]
{%- endmacro %}

{#- Spark: the median of a sorted list, null for an empty one. -#}
{% macro sorted_median(list) -%}
    (get({{ list }}, (size({{ list }}) - 1) div 2) + get({{ list }}, size({{ list }}) div 2)) / 2
{%- endmacro %}

{#- A struct from [name, expression] pairs; structs compare by their fields in order. -#}
{% macro struct_of(pairs) %}{{ return(adapter.dispatch('struct_of')(pairs)) }}{% endmacro %}
{% macro default__struct_of(pairs) -%}
    struct_pack({% for name, value in pairs %}{{ name }} := {{ value }}{{ ', ' if not loop.last }}{% endfor %})
{%- endmacro %}
{% macro spark__struct_of(pairs) -%}
    named_struct({% for name, value in pairs %}'{{ name }}', {{ value }}{{ ', ' if not loop.last }}{% endfor %})
{%- endmacro %}
