{{ config(strategy='append', tags=['hot']) }}

{%- set incremental = is_incremental_build() %}
{%- set new_payments = new_rows(ref('card_transactions')) %}

with new_transactions as (

    select trans_num, user_id, amt, trans_date_trans_time, _topic, _partition, _offset, _timestamp, _ingested_at
    from {{ new_payments }}

),

placed as (

    select
        new_transactions.*,
        max(trans_date_trans_time) over (
            partition by _ingested_at, _topic, _partition order by _offset
            rows between unbounded preceding and current row
        ) as newest_time
    from new_transactions
    where user_id is not null and trans_date_trans_time is not null

),

-- a user's rows in order of arrival: by offset, which no split into batches changes; partitions side by side in event time
evaluated as (

    select
        trans_num, user_id, amt, trans_date_trans_time, _topic, _partition, _offset, _timestamp, _ingested_at,
        row_number() over (
            partition by user_id order by _ingested_at, newest_time, _topic, _partition, _offset
        ) - 1 as arrival
    from placed

),
{% if incremental %}
touched_users as (

    select user_id, min(trans_date_trans_time) as first_time
    from evaluated
    group by user_id

),

earlier as (

    select stored.user_id, stored.trans_date_trans_time, stored.amt
    from {{ seen_rows(
        ref('card_transactions'),
        payment_columns(),
        since=[
            'trans_date_trans_time',
            'select min(trans_date_trans_time) - interval 10 minutes from ' ~ new_payments ~ ' where user_id is not null',
        ],
    ) }} as stored
    inner join touched_users
        on stored.user_id = touched_users.user_id
        and stored.trans_date_trans_time >= touched_users.first_time - interval 10 minutes

),

-- what lies before every 10 minutes that are looked at counts as one number: all of the user's but the above
older as (

    select
        stored.user_id,
        stored.prior_count - coalesce(later.later_count, 0) as prior_count,
        stored.prior_amt - coalesce(later.later_amt, 0) as prior_amt
    from {{ seen_totals(
        ref('card_transactions'),
        key=['user_id'],
        columns={
            'user_id': 'user_id',
            'prior_count': 'case when trans_date_trans_time is not null and ' ~ exact_amount('amt')
                ~ ' is not null then 1 else 0 end',
            'prior_amt': 'case when trans_date_trans_time is null then 0 else coalesce(' ~ exact_amount('amt') ~ ', 0) end',
        },
        totals={'prior_count': 'sum(prior_count)', 'prior_amt': 'sum(prior_amt)'},
    ) }} as stored
    left join (
        select
            user_id,
            count({{ exact_amount('amt') }}) as later_count,
            sum({{ exact_amount('amt') }}) as later_amt
        from earlier
        group by user_id
    ) as later
        on stored.user_id = later.user_id
    where stored.user_id in (select user_id from touched_users)

),
{% endif %}
arrivals as (

    select
        user_id,
        trans_date_trans_time,
        max(trans_date_trans_time) over (
            partition by user_id order by arrival rows between unbounded preceding and 1 preceding
        ) as newest_time
    from evaluated

),

-- users of whom something arrived later but lies before what had arrived already
disordered_users as (

    select distinct user_id from arrivals where trans_date_trans_time < newest_time

),

in_order as (

    select evaluated.*, true as is_counted, true as is_evaluated, 0 as part, 0 as block
    from evaluated
    where user_id not in (select user_id from disordered_users)
    {%- if incremental %}

    union all

    select {{ unlanded_columns() }}, true as is_counted, false as is_evaluated, 0 as part, 0 as block
    from earlier
    where user_id not in (select user_id from disordered_users)
    {%- endif %}

),

disordered as (

    select evaluated.* from evaluated where user_id in (select user_id from disordered_users)

),

{{ landed_by_then('disordered', 'earlier' if incremental else none) }},

measured_in_order as (

    select {{ past_measures(in_order=true) }}
    from in_order
    {{ past_windows() }}

),

measured_parts as (

    select {{ past_measures() }}
    from landed_by_then
    {{ past_windows() }}

),

measured as (

    select
        trans_num, user_id, amt, trans_date_trans_time, _topic, _partition, _offset, _timestamp, _ingested_at,
        prior_count, prior_amt, count_10min, sum_10min
    from measured_in_order
    where is_evaluated

    union all

    select
        trans_num, user_id, amt, trans_date_trans_time, _topic, _partition, _offset, _timestamp, _ingested_at,
        sum(prior_count) as prior_count,
        sum(prior_amt) as prior_amt,
        sum(count_10min) as count_10min,
        sum(sum_10min) as sum_10min
    from measured_parts
    where is_evaluated
    group by trans_num, user_id, amt, trans_date_trans_time, _topic, _partition, _offset, _timestamp, _ingested_at

    union all

    select
        trans_num, user_id, amt, trans_date_trans_time, _topic, _partition, _offset, _timestamp, _ingested_at,
        0 as prior_count,
        null as prior_amt,
        1 as count_10min,
        coalesce(amt, 0) as sum_10min
    from new_transactions
    where user_id is null or trans_date_trans_time is null

),

totals as (

    select
        measured.*,
        {%- if incremental %}
        measured.prior_count + coalesce(older.prior_count, 0) as all_count,
        coalesce(measured.prior_amt, 0) + coalesce(older.prior_amt, 0) as all_amt
        {%- else %}
        measured.prior_count as all_count,
        measured.prior_amt as all_amt
        {%- endif %}
    from measured
    {%- if incremental %}
    left join older on measured.user_id = older.user_id
    {%- endif %}

),

features as (

    select
        'kafka.' || _topic as source,
        trans_num as transaction_id,
        user_id,
        amt as amount,
        trans_date_trans_time as event_time,
        _timestamp as source_committed_at,
        _ingested_at as landed_at,
        'c' as op,
        case when all_count > 0 then cast(all_amt as double) / all_count end as prior_mean,
        all_count as prior_count,
        count_10min,
        coalesce(sum_10min, 0) as sum_10min,
        cast(null as boolean) as user_exists,
        current_timestamp as scored_at,
        _topic,
        _partition,
        _offset
    from totals

)

select * from features
