{{ config(strategy='append', tags=['hot']) }}

{%- set shape = window_shape('user_trans_amt_last_360min') %}
{%- set features, seconds = shape.features, shape.seconds %}
{%- set columns = event_columns_for(shape.stream, shape.features, shape.key) %}
{%- set frame = over_frame('user_id', 'trans_date_trans_time', seconds) %}
{%- set new_payments = new_rows(ref('card_transactions')) %}

with new_transactions as (

    select {{ columns | join(', ') }}
    from {{ counted_events(shape.stream, new_payments) }}
    where trans_date_trans_time is not null

),

{% if is_incremental_build() -%}
{%- set oldest_touched = 'select min(trans_date_trans_time) from ' ~ counted_events(shape.stream, new_payments) %}
touched_users as (

    select user_id, min(trans_date_trans_time) as first_time, max(trans_date_trans_time) as last_time
    from new_transactions
    group by user_id

),

earlier as (

    select stored.{{ columns | join(', stored.') }}
    from {{ counted_events(shape.stream, seen_rows(
        ref('card_transactions'),
        columns,
        since=['trans_date_trans_time', '(' ~ oldest_touched ~ ') - interval ' ~ seconds ~ ' seconds'],
    )) }} as stored
    inner join touched_users
        on stored.user_id is not distinct from touched_users.user_id
        and stored.trans_date_trans_time >= touched_users.first_time - interval {{ seconds }} seconds
        and stored.trans_date_trans_time <= touched_users.last_time + interval {{ seconds }} seconds

),

pool as (

    select earlier.*, 0 as is_new from earlier

    union all

    select new_transactions.*, 1 as is_new from new_transactions

),

measured as (

    select
        trans_num,
        user_id,
        trans_date_trans_time,
        is_amount_excluded,
        {%- for feature in features %}
        {{ feature_of_rows(feature, over=frame) }} as {{ feature.name }},
        {%- endfor %}
        {{ over_range('max(is_new)', 'user_id', 'trans_date_trans_time', seconds) }} as is_touched,
        is_new
    from pool

),

-- versions after the first, which are few; all other payments have a single version
corrections as (

    select trans_num, max(version) as version
    from {{ seen_rows(
        this,
        {'trans_num': 'trans_num', 'trans_date_trans_time': 'trans_date_trans_time', 'version': 'version'},
        where='version > 1',
        since=['trans_date_trans_time', oldest_touched],
    ) }}
    group by trans_num

),

versions as (

    select
        measured.trans_num,
        measured.user_id,
        measured.trans_date_trans_time,
        {%- for feature in features %}
        measured.{{ feature.name }},
        {%- endfor %}
        coalesce(measured.is_amount_excluded, false) as is_amount_excluded,
        false as is_time_excluded,
        case when measured.is_new = 1 then 1 else coalesce(corrections.version, 1) + 1 end as version,
        current_timestamp as known_at
    from measured
    left join corrections on measured.trans_num = corrections.trans_num
    where measured.is_touched = 1

)
{%- else -%}
versions as (

    select
        trans_num,
        user_id,
        trans_date_trans_time,
        {%- for feature in features %}
        {{ feature_of_rows(feature, over=frame) }} as {{ feature.name }},
        {%- endfor %}
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        false as is_time_excluded,
        1 as version,
        current_timestamp as known_at
    from new_transactions

)
{%- endif %},

-- a payment whose event time is excluded counts in no window, not even its own
versions_with_excluded as (

    select * from versions

    union all

    select
        trans_num,
        user_id,
        trans_date_trans_time,
        {%- for feature in features %}
        {{ feature.empty }} as {{ feature.name }},
        {%- endfor %}
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        true as is_time_excluded,
        1 as version,
        current_timestamp as known_at
    from {{ new_payments }}
    where is_time_excluded

)

select * from versions_with_excluded
