{{ config(strategy='merge', unique_key=['window_start', 'user_id'], tags=['hot']) }}

{%- set seconds = 360 * 60 %}
{%- set incremental = is_incremental_build() %}

with new_transactions as (

    select * from {{ new_rows(ref('card_transactions')) }}

),

card_transactions as (

    select trans_num, user_id, trans_date_trans_time, amt, _topic, _partition
    from {{ ref('card_transactions') if incremental else 'new_transactions' }}

),

late as (

    select trans_num from {{ ref('card_transactions_late') }}

),

partition_watermarks as (

    select max(trans_date_trans_time) - interval {{ var('allowed_lateness_seconds') }} seconds as watermark
    from card_transactions
    group by _topic, _partition

),

watermark as (

    select min(watermark) as watermark from partition_watermarks

),
{% if incremental %}
emitted as (

    select coalesce(max(window_end), timestamp '0001-01-01 00:00:00') as newest_end from {{ this }}

),

reopened as (

    select distinct windowed.window_start, windowed.user_id
    from {{ tumble('new_transactions', 'trans_date_trans_time', seconds) }} as windowed
    cross join emitted
    where windowed.window_end <= emitted.newest_end
        {%- if var('late_rows') == 'drop' %}
        and windowed.trans_num not in (select trans_num from late)
        {%- endif %}

),

due as (

    select card_transactions.*
    from card_transactions
    cross join emitted
    where card_transactions.trans_date_trans_time >= emitted.newest_end

    union all

    select card_transactions.*
    from card_transactions
    cross join emitted
    inner join reopened
        on card_transactions.user_id is not distinct from reopened.user_id
        and card_transactions.trans_date_trans_time >= reopened.window_start
        and card_transactions.trans_date_trans_time < reopened.window_start + interval {{ seconds }} seconds
    where card_transactions.trans_date_trans_time < emitted.newest_end

),
{% endif %}
windowed as (

    select * from {{ tumble('due' if incremental else 'card_transactions', 'trans_date_trans_time', seconds) }}

),

closed as (

    select
        windowed.window_start,
        windowed.window_end,
        windowed.user_id,
        avg(windowed.amt) as user_mean_trans_amt_last_360min,
        count(windowed.amt) as user_trans_count_last_360min
    from windowed
    cross join watermark
    where windowed.window_end <= watermark.watermark
        {%- if var('late_rows') == 'drop' %}
        and not exists (select 1 from late where late.trans_num = windowed.trans_num)
        {%- endif %}
    group by windowed.window_start, windowed.window_end, windowed.user_id

){% if incremental %},

changes as (

    select closed.*, closed.window_end > emitted.newest_end as _is_new, false as _delete
    from closed
    cross join emitted

    union all

    select
        stored.window_start,
        stored.window_end,
        stored.user_id,
        stored.user_mean_trans_amt_last_360min,
        stored.user_trans_count_last_360min,
        false as _is_new,
        true as _delete
    from {{ this }} as stored
    cross join watermark
    where stored.window_end > watermark.watermark

)

select * from changes
{%- else %}

select * from closed
{%- endif %}
