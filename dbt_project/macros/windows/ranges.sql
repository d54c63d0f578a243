{#- Windows that end at each row: an aggregate over the rows of the same key (a column, or a list of them), by event
    time. Null if the row has no time or a null in its key; rows without time count nowhere. -#}

{#- OVER: time in [t - seconds, t], the row itself and equal times included. -#}
{% macro over(aggregate, measure, key, time, seconds) -%}
    {{ range_window(aggregate, measure, key, time, seconds, 'current row') }}
{%- endmacro %}

{#- Exclusive window: time in [t - seconds, t), without the row itself and equal times; no seconds: every earlier
    row. -#}
{% macro past(aggregate, measure, key, time, seconds=none) -%}
    {{ range_window(aggregate, measure, key, time, seconds, '1 preceding') }}
{%- endmacro %}

{% macro range_window(aggregate, measure, key, time, seconds, end) -%}
    {%- set keys = [key] if key is string else key -%}
    {%- set frame -%}
        partition by {{ keys | join(', ') }} order by {{ microseconds(time) }} nulls last
            range between {{ range_start(seconds) }} and {{ end }}
    {%- endset -%}
    case
        when {% for column in keys %}{{ column }} is not null and {% endfor %}{{ time }} is not null
            then {{ aggregate_of(aggregate, measure, time, over=frame) }}
    end
{%- endmacro %}

{% macro range_start(seconds) -%}
    {{ 'unbounded preceding' if seconds is none else (seconds * 1000000) ~ ' preceding' }}
{%- endmacro %}
