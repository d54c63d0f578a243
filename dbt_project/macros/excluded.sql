{#- Amounts and event times that count in no feature. Silver marks them (is_amount_excluded, is_time_excluded; null in
    rows older than these columns: not excluded); models that count read payments through the macros below. -#}

{#- The largest amount, in absolute value, that sums of every measure represent exactly: as scaled integers of six
    decimals it fits 64 bits. A larger max_amount has no effect. -#}
{% macro largest_exact_amount() %}{{ return(9000000000000.0) }}{% endmacro %}

{#- The largest amount, in absolute value, that counts in a stream (no stream: that of the settings). -#}
{% macro largest_amount(stream=none) %}{{ return([limit_of(stream, 'max_amount') | float, largest_exact_amount()] | min) }}{% endmacro %}

{#- Whether an amount is at most `largest`; false for NaN, null for null. -#}
{% macro is_plausible(amount, largest=none) -%}
    (abs({{ amount }}) <= cast({{ largest or largest_amount() }} as double) and {{ is_finite(amount) }})
{%- endmacro %}

{#- Whether an amount is excluded: it exceeds the limit, is not a number, or does not fit its type. `amount`: the amount
    in the type that models use; `is_given`: a condition, whether the source has an amount. -#}
{% macro excludes_amount(amount, is_given, stream=none) -%}
    ({{ is_given }} and not coalesce({{ is_plausible(amount, largest_amount(stream)) }}, false))
{%- endmacro %}

{#- Whether an event time is excluded: it is more than max_future_seconds (0: no limit) after `recorded_at`, the
    record's own timestamp, or in a year whose windows exceed the range of timestamps in some readers. `time`: the event
    time as a timestamp; `is_given`: a condition, whether the source has one. -#}
{% macro excludes_time(time, is_given, recorded_at, stream=none) -%}
    {%- set most = limit_of(stream, 'max_future_seconds') -%}
    (
        {{ is_given }}
        and not coalesce(
            {{ time }} >= timestamp '0002-01-01 00:00:00'
            and {{ time }} < timestamp '9999-01-01 00:00:00'
            {%- if most %}
            and coalesce(
                {{ microseconds(time) }} - {{ (most * 1000000) | int }}
                <= {{ microseconds(recorded_at) }},
                true
            )
            {%- endif %},
            false
        )
    )
{%- endmacro %}

{#- Whether a change event has a value of this column only as text (bronze's `_text`). -#}
{% macro is_in_text(name) -%}
    (_text is not null and {{ json_text('_text', name) }} is not null)
{%- endmacro %}
