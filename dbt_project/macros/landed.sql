{#- Features "as known then" for rows that arrived out of order of their event time, used by
    card_transaction_features. A row may count only itself and what arrived before it. Which rows those are differs
    from row to row, so no single window frame can say it; but writing a user's arrival numbers in binary, arrival
    s < arrival r exactly when at one bit k both agree above k, s has 0 and r has 1. One window for each bit, in which
    rows with 0 are counted and rows with 1 are evaluated, thus sums every earlier arrival once. -#}
{% macro landed_by_then(rows, earlier) %}
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

    select {{ unlanded_columns() }}, true as is_counted, false as is_evaluated, -2 as part, 0 as block
    from {{ earlier }}
    where user_id in (select user_id from {{ rows }})
    {%- endif %}

)
{%- endmacro %}

{#- The columns of an evaluated row for one that is only counted. -#}
{% macro unlanded_columns() -%}
    null as trans_num, user_id, amt, trans_date_trans_time, null as _topic, null as _partition, null as _offset,
    null as _timestamp, null as _ingested_at, -1 as arrival
{%- endmacro %}

{#- Count and sum of what counts strictly before the row's event time, and in the 10 minutes up to it. `in_order`: every
    row counts, and of those with equal time the ones that arrived later are left out. -#}
{% macro past_measures(in_order=false) -%}
    trans_num, user_id, amt, trans_date_trans_time, _topic, _partition, _offset, _timestamp, _ingested_at, is_evaluated,
    count(case when is_counted then {{ exact_amount('amt') }} end) over strictly_before as prior_count,
    sum(case when is_counted then {{ exact_amount('amt') }} end) over strictly_before as prior_amt,
    {%- if in_order %}
    count(*) over before_in_10min + count(*) over ties_so_far as count_10min,
    coalesce(sum({{ exact_amount('amt') }}) over before_in_10min, 0) + coalesce(sum({{ exact_amount('amt') }}) over ties_so_far, 0) as sum_10min
    {%- else %}
    count(case when is_counted then 1 end) over last_10min as count_10min,
    sum(case when is_counted then {{ exact_amount('amt') }} end) over last_10min as sum_10min
    {%- endif %}
{%- endmacro %}

{#- The window clause of past_measures. -#}
{% macro past_windows() -%}
    window
        strictly_before as (
            partition by user_id, part, block order by trans_date_trans_time
            range between unbounded preceding and interval 1 microseconds preceding
        ),
        last_10min as (
            partition by user_id, part, block order by trans_date_trans_time
            range between interval 10 minutes preceding and current row
        ),
        before_in_10min as (
            partition by user_id, part, block order by trans_date_trans_time
            range between interval 10 minutes preceding and interval 1 microseconds preceding
        ),
        ties_so_far as (
            partition by user_id, part, block, trans_date_trans_time order by arrival
            rows between unbounded preceding and current row
        )
{%- endmacro %}
