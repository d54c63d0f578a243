{{ config(strategy='append', tags=['hot']) }}

{%- set incremental = is_incremental_build() %}
{%- set new_payments = new_rows(ref('card_transactions')) %}
{%- set features = features_of('card_transaction_features') %}
{%- set measures = arrival_measures(features) %}
{%- set parts = arrival_parts(features) %}
{%- set all_time = parts | selectattr(2, 'none') | list %}
{%- set reach = part_windows(parts) | max | default(0) %}

with new_transactions as (

    select
        {{ landed_columns(stored=true) }}
        {{- values_of(measures) }}
    from {{ new_payments }}

),

placed as (

    select
        new_transactions.*,
        max(trans_date_trans_time) over (
            partition by {{ ingestion_order() }}, _topic, _partition order by _offset
            rows between unbounded preceding and current row
        ) as newest_time
    from new_transactions
    where user_id is not null and trans_date_trans_time is not null and is_time_excluded is not true

),

-- a user's rows in order of arrival: by offset, which no split into batches changes; partitions side by side in event time
evaluated as (

    select
        {{ landed_columns() }}{{ value_names(measures) }},
        row_number() over (
            partition by user_id order by {{ ingestion_order() }}, newest_time, _topic, _partition, _offset
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

    select stored.*
    from (
        select
            user_id, trans_date_trans_time
            {{- values_of(measures) }}
        from {{ seen_rows(
            ref('card_transactions'),
            payment_columns_for(features | selectattr('measure') | list),
            since=[
                'trans_date_trans_time',
                'select min(trans_date_trans_time) - interval ' ~ reach ~ ' seconds from ' ~ new_payments
                    ~ ' where user_id is not null and is_time_excluded is not true',
            ],
        ) }} as seen_payments
        where is_time_excluded is not true
    ) as stored
    inner join touched_users
        on stored.user_id = touched_users.user_id
        and stored.trans_date_trans_time >= touched_users.first_time - interval {{ reach }} seconds

),
{% if all_time %}
-- what lies before every window that is looked at counts as one number: all of the user's but the above
older as (

    select
        stored.user_id as older_user_id
        {%- for total, measure, _ in all_time %},
        {%- set name = part_name(total, measure, none) %}
        stored.{{ name }} - coalesce(later.{{ name }}, 0) as {{ name }}
        {%- endfor %}
    from {{ seen_totals(
        ref('card_transactions'),
        key=['user_id'],
        columns=single_totals(all_time, measures),
        totals=merged_totals(all_time),
        where='is_time_excluded is not true',
    ) }} as stored
    left join (
        select
            user_id
            {%- for total, measure, _ in all_time %},
            {%- set value = 'value_of_' ~ measure if measure else '*' %}
            {{ 'count' if total == 'n' else 'sum' }}({{ value }}) as {{ part_name(total, measure, none) }}
            {%- endfor %}
        from earlier
        group by user_id
    ) as later
        on stored.user_id = later.user_id
    where stored.user_id in (select user_id from touched_users)

),
{% endif %}
{%- endif %}
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

    select {{ unlanded_columns(measures) }}, true as is_counted, false as is_evaluated, 0 as part, 0 as block
    from earlier
    where user_id not in (select user_id from disordered_users)
    {%- endif %}

),

disordered as (

    select evaluated.* from evaluated where user_id in (select user_id from disordered_users)

),

{{ landed_by_then('disordered', 'earlier' if incremental else none, measures) }},

measured_in_order as (

    select {{ past_measures(parts, in_order=true) }}
    from in_order
    {{ past_windows(parts) }}

),

measured_parts as (

    select {{ past_measures(parts) }}
    from landed_by_then
    {{ past_windows(parts) }}

),

measured as (

    select
        {{ landed_columns() }}
        {{- part_columns(parts) }}
    from measured_in_order
    where is_evaluated

    union all

    select
        {{ landed_columns() }}
        {%- for part in parts %},
        sum({{ part_name(*part) }}) as {{ part_name(*part) }}
        {%- endfor %}
    from measured_parts
    where is_evaluated
    group by {{ landed_columns() }}

    union all

    -- without a user or a time it counts itself alone; with a time that is excluded not even itself
    select
        {{ landed_columns() }}
        {%- for total, measure, seconds in parts %},
        {%- set value = 'value_of_' ~ measure if measure else '1' %}
        {% if seconds is none -%}
        {{ '0' if total == 'n' else 'null' }}
        {%- else -%}
        {{ 'case when is_time_excluded or ' ~ value ~ ' is null then 0 else 1 end' if total == 'n'
            else 'case when is_time_excluded is not true then ' ~ value ~ ' end' }}
        {%- endif %} as {{ part_name(total, measure, seconds) }}
        {%- endfor %}
    from new_transactions
    where user_id is null or trans_date_trans_time is null or is_time_excluded

),

{% if incremental and all_time -%}
known as (

    select
        {{ landed_columns() }}
        {%- for total, measure, seconds in parts %},
        {%- set name = part_name(total, measure, seconds) %}
        {%- if seconds is none %}
        coalesce(measured.{{ name }}, 0) + coalesce(older.{{ name }}, 0) as {{ name }}
        {%- else %}
        measured.{{ name }}
        {%- endif %}
        {%- endfor %}
    from measured
    left join older
        on user_id = older_user_id and trans_date_trans_time is not null and is_time_excluded is not true

),

{% endif -%}
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
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded,
        {{- arrival_features(features) }}
        cast(null as boolean) as user_exists,
        current_timestamp as scored_at,
        _topic,
        _partition,
        _offset
    from {{ 'known' if incremental and all_time else 'measured' }}

)

select * from features
