{{ config(strategy='append', tags=['hot']) }}

{%- set features = features_of('user_trans_amt_last_360min_windowed') %}
{%- set seconds = window_seconds_of('user_trans_amt_last_360min_windowed') %}
{%- set columns = payment_columns_for(features) %}
{%- set incremental = is_incremental_build() %}
{%- set new_payments = new_rows(ref('card_transactions')) %}
{%- set observed = observations(incremental) %}
{%- set new_late = new_rows(ref('card_transactions_late')) %}
{#- looking for each payment among the late ones takes a third of a full build, and mostly there are none -#}
{%- set drops_late = var('late_rows') == 'drop' and (incremental or has_rows(new_late)) %}
{%- if incremental %}
    {%- set seen_times = seen_totals(
        ref('card_transactions'),
        key=['_topic', '_partition'],
        columns={
            '_topic': '_topic',
            '_partition': '_partition',
            'newest_time': 'trans_date_trans_time',
            'newest_landing': '_ingested_at',
        },
        totals={'newest_time': 'max(newest_time)', 'newest_landing': 'max(newest_landing)'},
    ) %}
    {%- set seen_ends = seen_totals(
        this, key=[], columns={'newest_end': 'window_end'}, totals={'newest_end': 'max(newest_end)'}
    ) %}
    {#- windows that end later are not emitted yet: those that the rows seen before have not closed -#}
    {%- set emitted_until -%}
        select case
            when (select max(newest_end) from {{ seen_ends }}) is null then timestamp '0001-01-01 00:00:00'
            else least(
                (select max(newest_end) from {{ seen_ends }}),
                (select {{ window_floor('seen.watermark', seconds) }} from ({{ window_watermark(seen_times) }}) as seen)
            )
        end as newest_end
    {%- endset %}
    {#- the start of the oldest window that may change -#}
    {%- set oldest_start -%}
        select least(
            (select newest_end from ({{ emitted_until }}) as emitted),
            (
                select min({{ window_floor('payments.trans_date_trans_time', seconds) }})
                from {{ new_payments }} as payments
                {%- if var('late_rows') == 'drop' %}
                where payments.trans_num not in (select trans_num from {{ new_late }})
                {%- endif %}
            )
        )
    {%- endset %}
    {%- set all_times -%}
        (
            select _topic, _partition, newest_time, newest_landing from {{ seen_times }}
            union all
            select _topic, _partition, trans_date_trans_time as newest_time, _ingested_at as newest_landing
            from {{ new_payments }}
        )
    {%- endset %}
    {%- set watermark_now = window_watermark(all_times) %}
{%- endif %}

with new_transactions as (

    select {{ columns | join(', ') }}, _topic, _partition, _ingested_at from {{ new_payments }}

),

late as (

    select trans_num from {{ new_late }}
    {%- if incremental %}

    union all

    select trans_num
    from {{ seen_rows(
        ref('card_transactions_late'),
        {'trans_num': 'trans_num', 'window_end': 'window_end'},
        since=['window_end', oldest_start],
    ) }}
    {%- endif %}

),

partition_times as (

    select _topic, _partition, trans_date_trans_time as newest_time, _ingested_at as newest_landing
    from new_transactions
    {%- if incremental %}

    union all

    select _topic, _partition, newest_time, newest_landing from {{ seen_times }}
    {%- endif %}

),

watermark as (

    {{ window_watermark('partition_times', observed) }}

),
{% if incremental %}
emitted as (

    {{ emitted_until }}

),

card_transactions as (

    select {{ columns | join(', ') }} from new_transactions

    union all

    select {{ columns | join(', ') }}
    from {{ seen_rows(ref('card_transactions'), columns, since=['trans_date_trans_time', oldest_start]) }}

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
    cross join watermark
    where card_transactions.trans_date_trans_time >= emitted.newest_end
        and card_transactions.trans_date_trans_time < {{ window_floor('watermark.watermark', seconds) }}

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

    select * from {{ tumble('due' if incremental else 'new_transactions', 'trans_date_trans_time', seconds) }}

),

summed as (

    select
        windowed.window_start,
        windowed.user_id
        {%- for feature in features %},
        {{ feature_of_rows(feature) }} as {{ feature.name }}
        {%- endfor %}
    from windowed
    {%- if drops_late %}
    where not exists (select 1 from late where late.trans_num = windowed.trans_num)
    {%- endif %}
    group by windowed.window_start, windowed.user_id

),

closed as (

    select
        summed.window_start,
        summed.window_start + interval {{ seconds }} seconds as window_end,
        summed.user_id
        {%- for feature in features %},
        summed.{{ feature.name }}
        {%- endfor %}
    from summed
    cross join watermark
    where summed.window_start + interval {{ seconds }} seconds <= watermark.watermark

),
{% if incremental %}
{%- set stored_columns = {} %}
{%- for name in ['window_start', 'window_end', 'user_id'] + feature_names_of('user_trans_amt_last_360min_windowed') + ['version', 'is_deleted'] %}
    {%- do stored_columns.update({name: name}) %}
{%- endfor %}
stored as (

    select
        versions.*,
        row_number() over (partition by versions.window_start, versions.user_id order by versions.version desc) as recency
    from {{ seen_rows(
        this,
        stored_columns,
        since=['window_end', 'select least((' ~ oldest_start ~ '), (' ~ watermark_now ~ '))'],
    ) }} as versions

),

versions as (

    select
        closed.window_start,
        closed.window_end,
        closed.user_id,
        {%- for feature in features %}
        closed.{{ feature.name }},
        {%- endfor %}
        coalesce(stored.version, 0) + 1 as version,
        current_timestamp as known_at,
        false as is_deleted
    from closed
    left join stored
        on closed.window_start = stored.window_start
        and closed.user_id is not distinct from stored.user_id
        and stored.recency = 1
    where stored.version is null
        or stored.is_deleted
        or {{ features_differ(features, 'closed', 'stored') }}

    union all

    select
        stored.window_start,
        stored.window_end,
        stored.user_id,
        {%- for feature in features %}
        stored.{{ feature.name }},
        {%- endfor %}
        stored.version + 1 as version,
        current_timestamp as known_at,
        true as is_deleted
    from stored
    cross join watermark
    where stored.recency = 1 and not stored.is_deleted and stored.window_end > watermark.watermark

)
{%- else %}
versions as (

    select closed.*, 1 as version, current_timestamp as known_at, false as is_deleted from closed

)
{%- endif %}

select * from versions
