{#- Features "as known then" for rows that landed out of order of their event time, used by
    card_transaction_features. A row may count only what had landed with it or before it. Which rows those are
    differs from row to row, so no single window frame can say it; but writing the landing numbers in binary,
    landing s < landing r exactly when at one bit k both agree above k, s has 0 and r has 1. One window for each
    bit, in which rows with 0 are counted and rows with 1 are evaluated, thus sums every earlier landing once. -#}
{% macro landed_by_then(rows, earlier) %}
bits as (

    select bit.step as bit, power(2, bit.step) as weight
    from {{ numbers(0, 30) }} as bit
    where power(2, bit.step) <= (select max(landing) from {{ rows }})

),

landed_by_then as (

    -- rows of the same landing know each other
    select {{ rows }}.*, true as is_counted, true as is_evaluated, -1 as part, landing as block
    from {{ rows }}

    union all

    select
        {{ rows }}.*,
        mod(cast(floor({{ rows }}.landing / bits.weight) as bigint), 2) = 0 as is_counted,
        mod(cast(floor({{ rows }}.landing / bits.weight) as bigint), 2) = 1 as is_evaluated,
        bits.bit as part,
        cast(floor({{ rows }}.landing / (2 * bits.weight)) as bigint) as block
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
    null as _timestamp, null as _ingested_at, null as landing
{%- endmacro %}

{#- Count and sum of what counts strictly before the row's event time, and in the 10 minutes up to it. -#}
{% macro past_measures() -%}
    trans_num, user_id, amt, trans_date_trans_time, _topic, _partition, _offset, _timestamp, _ingested_at, is_evaluated,
    count(case when is_counted then amt end) over strictly_before as prior_count,
    sum(case when is_counted then amt end) over strictly_before as prior_amt,
    count(case when is_counted then 1 end) over last_10min as count_10min,
    sum(case when is_counted then amt end) over last_10min as sum_10min
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
        )
{%- endmacro %}
