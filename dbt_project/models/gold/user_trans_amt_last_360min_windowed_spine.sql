{{ config(materialized='delta' if var('window_spine') else 'view', strategy='overwrite', tags=['replica']) }}

{%- set features = features_of('user_trans_amt_last_360min_windowed') %}
{%- set seconds = window_seconds_of('user_trans_amt_last_360min_windowed') %}
{%- set observed = source('control', 'idle_partitions') if var('window_idle_seconds') else none %}

with card_transactions as (

    select trans_date_trans_time, _topic, _partition, _ingested_at from {{ ref('card_transactions') }}

),

windowed as (

    select * from {{ ref('user_trans_amt_last_360min_windowed') }}

),

partition_times as (

    select _topic, _partition, trans_date_trans_time as newest_time, _ingested_at as newest_landing
    from card_transactions

),

watermark as (

    {{ window_watermark('partition_times', observed) }}

),

-- the last window that the watermark has passed, though it may hold no payment at all
closed as (

    select {{ window_floor('watermark.watermark', seconds) }} - interval {{ seconds }} seconds as window_start
    from watermark

),

bounds as (

    select window_start as bound from windowed

    union all

    select closed.window_start as bound
    from closed
    where closed.window_start > (select min(window_start) from windowed)

),

users as (

    select user_id, min(window_start) as first_start
    from windowed
    group by user_id

),

every_window as (

    select * from {{ spine('bounds', 'user_id', 'bound', seconds, entities='users') }}

),

counted as (

    select
        every_window.window_start,
        every_window.window_end,
        every_window.user_id
        {%- for feature in features %},
        coalesce(windowed.{{ feature.name }}, {{ feature.empty }}) as {{ feature.name }}
        {%- endfor %}
    from every_window
    inner join users
        on every_window.user_id is not distinct from users.user_id
        and every_window.window_start >= users.first_start
    left join windowed
        on every_window.user_id is not distinct from windowed.user_id
        and every_window.window_start = windowed.window_start

)

select * from counted
