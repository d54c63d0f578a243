{{ config(strategy='merge', unique_key=['trans_num'], tags=['hot']) }}

{%- set seconds = 360 * 60 %}

with new_transactions as (

    select trans_num, user_id, trans_date_trans_time, amt
    from {{ new_rows(ref('card_transactions')) }}
    where trans_date_trans_time is not null

),

{% if is_incremental_build() -%}
touched_users as (

    select user_id, min(trans_date_trans_time) as first_time, max(trans_date_trans_time) as last_time
    from new_transactions
    group by user_id

),

pool as (

    select
        stored.trans_num,
        stored.user_id,
        stored.trans_date_trans_time,
        stored.amt,
        case when new_transactions.trans_num is not null then 1 else 0 end as is_new
    from {{ ref('card_transactions') }} as stored
    inner join touched_users
        on stored.user_id is not distinct from touched_users.user_id
        and stored.trans_date_trans_time >= touched_users.first_time - interval {{ seconds }} seconds
        and stored.trans_date_trans_time <= touched_users.last_time + interval {{ seconds }} seconds
    left join new_transactions on stored.trans_num = new_transactions.trans_num

),

measured as (

    select
        trans_num,
        user_id,
        trans_date_trans_time,
        {{ over_range('avg(amt)', 'user_id', 'trans_date_trans_time', seconds) }} as mean_amt,
        {{ over_range('count(amt)', 'user_id', 'trans_date_trans_time', seconds) }} as count_amt,
        {{ over_range('max(is_new)', 'user_id', 'trans_date_trans_time', seconds) }} as is_touched,
        is_new
    from pool

),

features as (

    select
        trans_num,
        user_id,
        trans_date_trans_time,
        mean_amt as user_mean_trans_amt_last_360min,
        count_amt as user_trans_count_last_360min,
        is_new = 1 as _is_new
    from measured
    where is_touched = 1

)
{%- else -%}
features as (

    select
        trans_num,
        user_id,
        trans_date_trans_time,
        {{ over_range('avg(amt)', 'user_id', 'trans_date_trans_time', seconds) }} as user_mean_trans_amt_last_360min,
        {{ over_range('count(amt)', 'user_id', 'trans_date_trans_time', seconds) }} as user_trans_count_last_360min
    from new_transactions

)
{%- endif %}

select * from features
