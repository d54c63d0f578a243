{#- Features "as known then" for rows that arrived out of order of their event time, used by
    card_transaction_features. A row may count only itself and what arrived before it. Which rows those are differs
    from row to row, so no single window frame can say it; but writing a user's arrival numbers in binary, arrival
    s < arrival r exactly when at one bit k both agree above k, s has 0 and r has 1. One window for each bit, in which
    rows with 0 are counted and rows with 1 are evaluated, thus sums every earlier arrival once. -#}
{% macro landed_by_then(rows, earlier, measures) %}
bits as (

    select bit.step as bit, power(2, bit.step) as weight
    from {{ numbers(0, 30) }} as bit
    where power(2, bit.step) <= (select max(arrival) from {{ rows }})

),

landed_by_then as (

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

    select {{ unlanded_columns(measures) }}, true as is_counted, false as is_evaluated, -2 as part, 0 as block
    from {{ earlier }}
    where user_id in (select user_id from {{ rows }})
    {%- endif %}

)
{%- endmacro %}

{#- The columns of a payment that go with its features; `stored`: as silver/card_transactions has them. -#}
{% macro landed_columns(stored=false) -%}
    trans_num, user_id, amt, trans_date_trans_time, is_amount_excluded, is_time_excluded,
    _topic, _partition, _offset, _timestamp, _ingested_at, {{ bronze_commit() ~ ' as ' if stored }}_bronze_commit
{%- endmacro %}

{#- The columns of an evaluated row for one that is only counted. -#}
{% macro unlanded_columns(measures) -%}
    null as trans_num, user_id, null as amt, trans_date_trans_time,
    null as is_amount_excluded, null as is_time_excluded, null as _topic, null as _partition, null as _offset,
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

{#- Totals of all time (`parts`) of a single payment, as seen_totals keeps them, and what merges them. -#}
{% macro single_totals(parts, measures) %}
    {%- set columns = {'user_id': 'user_id'} -%}
    {%- for total, measure, seconds in parts -%}
        {%- set value = exact_amount(measures[measure]) if measure else '1' -%}
        {%- if total == 'n' -%}
            {%- set counted = 'trans_date_trans_time is not null and ' ~ value ~ ' is not null' -%}
            {%- set one = 'case when ' ~ counted ~ ' then 1 else 0 end' -%}
        {%- else -%}
            {%- set one = 'case when trans_date_trans_time is null then 0 else coalesce(' ~ value ~ ', 0) end' -%}
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
{% macro past_measures(parts, in_order=false) -%}
    {{ landed_columns() }}, is_evaluated
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
{% macro past_windows(parts) -%}
    window
        strictly_before as (
            partition by user_id, part, block order by trans_date_trans_time
            range between unbounded preceding and interval 1 microseconds preceding
        ),
        {%- for seconds in part_windows(parts) %}
        last_{{ seconds }} as (
            partition by user_id, part, block order by trans_date_trans_time
            range between interval {{ seconds }} seconds preceding and current row
        ),
        before_in_{{ seconds }} as (
            partition by user_id, part, block order by trans_date_trans_time
            range between interval {{ seconds }} seconds preceding and interval 1 microseconds preceding
        ),
        {%- endfor %}
        ties_so_far as (
            partition by user_id, part, block, trans_date_trans_time order by arrival
            rows between unbounded preceding and current row
        )
{%- endmacro %}
