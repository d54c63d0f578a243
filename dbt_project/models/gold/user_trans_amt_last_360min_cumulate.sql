{{ config(materialized='view', tags=['replica']) }}

with card_transactions as (

    select user_id, trans_date_trans_time, amt from {{ ref('card_transactions') }}

),

windowed as (

    select * from {{ cumulate('card_transactions', 'trans_date_trans_time', 60 * 60, 360 * 60) }}

),

aggregated as (

    select
        window_start,
        window_end,
        user_id,
        avg(amt) as user_mean_trans_amt_last_360min,
        count(amt) as user_trans_count_last_360min
    from windowed
    group by window_start, window_end, user_id

)

select * from aggregated
