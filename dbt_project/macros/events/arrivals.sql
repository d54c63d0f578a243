{#- Features "as known then" for rows that arrived out of order of their event time, used by
    event_features. A row may count only itself and what arrived before it. Which rows those are differs
    from row to row, so no single window frame can say it; but writing a user's arrival numbers in binary, arrival
    s < arrival r exactly when at one bit k both agree above k, s has 0 and r has 1. One window for each bit, in which
    rows with 0 are counted and rows with 1 are evaluated, thus sums every earlier arrival once. -#}
{% macro arrived_by_then(stream, rows, earlier, measures) %}
{%- set key = fast_path_key(stream) %}
bits as (

    select bit.step as bit, power(2, bit.step) as weight
    from {{ numbers(0, 30) }} as bit
    where power(2, bit.step) <= (select max(arrival) from {{ rows }})

),

arrived_by_then as (

    -- a row counts itself
    select {{ rows }}.*, true as is_counted, true as is_evaluated, -1 as part, arrival as block
    from {{ rows }}

    union all

    select
        {{ rows }}.*,
        mod(cast(floor({{ rows }}.arrival / bits.weight) as bigint), 2) = 0 as is_counted,
        mod(cast(floor({{ rows }}.arrival / bits.weight) as bigint), 2) = 1 as is_evaluated,
        bits.bit as part,
        cast(floor({{ rows }}.arrival / (2 * bits.weight)) as bigint) as block
    from {{ rows }}
    cross join bits
    {%- if earlier %}

    union all

    -- what earlier builds have seen is known to all
    select {{ rows }}.*, false as is_counted, true as is_evaluated, -2 as part, 0 as block
    from {{ rows }}

    union all

    select {{ columns_of_counted(stream, measures) }}, true as is_counted, false as is_evaluated, -2 as part, 0 as block
    from {{ earlier }}
    where ({{ key | join(', ') }}) in (select {{ as_one_value(key) }} from {{ rows }})
    {%- endif %}

)
{%- endmacro %}

{#- The columns of an event that go with its features; `stored`: as the stream's rows have them. -#}
{% macro columns_of_arrived(stream, stored=false) -%}
    {{ event_columns(stream) | join(', ') }},
    _topic, _partition, _offset, _timestamp, _ingested_at, {{ bronze_commit() ~ ' as ' if stored }}_bronze_commit
{%- endmacro %}

{#- The columns of an evaluated row for one that is only counted. -#}
{% macro columns_of_counted(stream, measures) -%}
    {%- for name in event_columns(stream) -%}
        {{ 'null as ' if name not in fast_path_key(stream) + [stream.time] }}{{ name }},{{ ' ' }}
    {%- endfor -%}
    null as _topic, null as _partition, null as _offset,
    null as _timestamp, null as _ingested_at, null as _bronze_commit{{ value_names(measures) }}, -1 as arrival
{%- endmacro %}

{#- What is added up of a row, behind other columns: each measure, exactly (`measures`: name -> expression). -#}
{% macro values_of(measures) -%}
    {%- for name, expression in measures.items() %},
        {{ exact_amount(expression) }} as value_of_{{ name }}
    {%- endfor %}
{%- endmacro %}

{#- The columns they are then. -#}
{% macro value_names(measures) -%}
    {%- for name in measures %}, value_of_{{ name }}{% endfor %}
{%- endmacro %}

{#- Totals of all time (`parts`) of a single event, as seen_totals keeps them, and what merges them. -#}
{% macro single_totals(stream, parts, measures) %}
    {%- set columns = {} -%}
    {%- for name in fast_path_key(stream) -%}{%- do columns.update({name: name}) -%}{%- endfor -%}
    {%- for total, measure, seconds in parts -%}
        {%- set value = exact_amount(measures[measure]) if measure else '1' -%}
        {%- if total == 'n' -%}
            {%- set counted = stream.time ~ ' is not null and ' ~ value ~ ' is not null' -%}
            {%- set one = 'case when ' ~ counted ~ ' then 1 else 0 end' -%}
        {%- else -%}
            {%- set one = 'case when ' ~ stream.time ~ ' is null then 0 else coalesce(' ~ value ~ ', 0) end' -%}
        {%- endif -%}
        {%- do columns.update({part_name(total, measure, seconds): one}) -%}
    {%- endfor -%}
    {{ return(columns) }}
{% endmacro %}
{% macro merged_totals(parts) %}
    {%- set merged = {} -%}
    {%- for part in parts -%}{%- do merged.update({part_name(*part): 'sum(' ~ part_name(*part) ~ ')'}) -%}{%- endfor -%}
    {{ return(merged) }}
{% endmacro %}

{#- Totals (`parts`, macros/features/arrival.sql) of what counts strictly before the row's event time, and in windows up
    to it. `in_order`: every row counts, and of those with equal time the ones that arrived later are left out. -#}
{% macro past_measures(stream, parts, in_order=false) -%}
    {{ columns_of_arrived(stream) }}, is_evaluated
    {%- for total, measure, seconds in parts %},
    {%- set value = 'value_of_' ~ measure if measure else '*' if in_order else '1' -%}
    {%- set counted = value if in_order else 'case when is_counted then ' ~ value ~ ' end' -%}
    {%- set aggregate = ('count' if total == 'n' else 'sum') ~ '(' ~ counted ~ ')' %}
    {% if seconds is none -%}
    {{ aggregate }} over strictly_before
    {%- elif not in_order -%}
    {{ aggregate }} over last_{{ seconds }}
    {%- elif total == 'n' -%}
    {{ aggregate }} over before_in_{{ seconds }} + {{ aggregate }} over ties_so_far
    {%- else -%}
    coalesce({{ aggregate }} over before_in_{{ seconds }}, 0) + coalesce({{ aggregate }} over ties_so_far, 0)
    {%- endif %} as {{ part_name(total, measure, seconds) }}
    {%- endfor %}
{%- endmacro %}

{#- The window clause of past_measures. -#}
{% macro past_windows(stream, parts) -%}
    {%- set key, time = fast_path_key(stream) | join(', '), stream.time %}
    window
        strictly_before as (
            partition by {{ key }}, part, block order by {{ time }}
            range between unbounded preceding and interval 1 microseconds preceding
        ),
        {%- for seconds in part_windows(parts) %}
        last_{{ seconds }} as (
            partition by {{ key }}, part, block order by {{ time }}
            range between interval {{ seconds }} seconds preceding and current row
        ),
        before_in_{{ seconds }} as (
            partition by {{ key }}, part, block order by {{ time }}
            range between interval {{ seconds }} seconds preceding and interval 1 microseconds preceding
        ),
        {%- endfor %}
        ties_so_far as (
            partition by {{ key }}, part, block, {{ time }} order by arrival
            rows between unbounded preceding and current row
        )
{%- endmacro %}
