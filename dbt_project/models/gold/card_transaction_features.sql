{{ config(strategy='append', tags=['hot']) }}

{%- set incremental = is_incremental_build() %}

with new_transactions as (

    select trans_num, user_id, amt, trans_date_trans_time, _topic, _partition, _offset, _timestamp, _ingested_at
    from {{ new_rows(ref('card_transactions')) }}

),
{% if incremental %}
touched_users as (

    select user_id, min(trans_date_trans_time) as first_time
    from new_transactions
    where user_id is not null and trans_date_trans_time is not null
    group by user_id

),

history as (

    select stored.user_id, stored.trans_date_trans_time, stored.amt, stored.trans_num, stored._ingested_at
    from {{ ref('card_transactions') }} as stored
    inner join touched_users on stored.user_id = touched_users.user_id
    ...
),
{% endif %}
