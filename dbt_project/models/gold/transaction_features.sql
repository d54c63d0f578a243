{{ config(strategy='append', tags=['hot']) }}

{%- set incremental = is_incremental_build() %}
{%- set looked_at = 100 %}
{%- set new_ledger = new_rows(ref('transactions_ledger')) %}
{%- set ten = window_floor('transaction_date', 600) %}
{%- set shifted = 'known.transaction_date + kind.step * interval 600 seconds' %}

with new_entries as (

    select * from {{ new_ledger }}

),

user_events as (

    select
        cast(user_id as bigint) as user_id,
        _op,
        _lsn,
        case when _op = 'r' then -1 else _seq end as _seq
    from {{ seen_rows(
        source('bronze', 'users'), {'user_id': 'user_id', '_op': '_op', '_lsn': '_lsn', '_seq': '_seq'}, newest=true
    ) }}

),

known_since as (

    select _lsn, _seq from user_events order by _lsn, _seq limit 1

),

truncates as (

    select
        _lsn, _seq,
        lead(_lsn) over (order by _lsn, _seq) as until_lsn,
        lead(_seq) over (order by _lsn, _seq) as until_seq
    from user_events
    where _op = 't'

),
{% if incremental %}
touched_users as (

    select distinct user_id from new_entries where user_id is not null

),

needed_tens as (

    {{ needed_tens('new_entries') }}

),

known as (

    select stored.user_id, stored.user_entry, stored.transaction_date, stored.amount, stored.weight, false as is_new
    from {{ seen_by_key(
        ref('transactions_ledger'), entry_columns(), ['user_id', ten], needed_tens(new_ledger)
    ) }} as stored
    inner join needed_tens
        on stored.user_id = needed_tens.user_id
        and {{ window_floor('stored.transaction_date', 600) }} = needed_tens.ten

    union all

    select user_id, user_entry, transaction_date, amount, weight, true as is_new
    from new_entries
    where user_id is not null and transaction_date is not null

),
{% else %}
known as (

    select user_id, user_entry, transaction_date, amount, weight, true as is_new
    from new_entries
    where user_id is not null and transaction_date is not null

),
{% endif %}
-- every time lies in two stretches of 20 minutes, 10 minutes apart; one of them holds all of the 10 minutes before it
stretched as (

    select
        known.user_id,
        known.user_entry,
        known.transaction_date,
        known.amount,
        known.weight,
        kind.step as kind,
        {{ window_floor(shifted, 1200) }} as stretch,
        known.is_new
        and known.weight = 1
        and {{ window_floor(shifted, 1200) }} + interval 600 seconds <= {{ shifted }} as is_measured
    from known
    cross join {{ numbers(0, 1) }} as kind

),

measured_stretches as (

    select distinct user_id, kind, stretch from stretched where is_measured

),

placed as (

    select
        stretched.*,
        row_number() over (
            partition by stretched.user_id, stretched.kind, stretched.stretch order by stretched.user_entry
        ) as place
    from stretched
    inner join measured_stretches
        on stretched.user_id = measured_stretches.user_id
        and stretched.kind = measured_stretches.kind
        and stretched.stretch = measured_stretches.stretch

),

blocks as (

    select placed.*, cast(floor(placed.place / {{ looked_at }}) as bigint) as block from placed

),

-- of a stretch the last {{ looked_at }} entries are looked at: joining all of a user's would explode on a bulk load
last_10min as (

    select
        measured.user_id,
        measured.user_entry,
        sum(earlier.weight) as entry_count,
        sum(earlier.weight * coalesce(earlier.amount, 0)) as entry_amount
    from blocks as measured
    cross join {{ numbers(0, 1) }} as back
    inner join blocks as earlier
        on measured.user_id = earlier.user_id
        and measured.kind = earlier.kind
        and measured.stretch = earlier.stretch
        and measured.block - back.step = earlier.block
    where measured.is_measured
        and earlier.place < measured.place
        and earlier.place >= measured.place - {{ looked_at }}
        and earlier.transaction_date >= measured.transaction_date - interval 10 minutes
        and earlier.transaction_date <= measured.transaction_date
    group by measured.user_id, measured.user_entry

),

evaluated as (

    select
        new_entries.transaction_id,
        new_entries.user_id,
        new_entries.amount,
        new_entries.transaction_date,
        new_entries.user_count - case when new_entries.amount is null then 0 else 1 end as prior_count,
        new_entries.user_amount - coalesce(new_entries.amount, 0) as prior_amount,
        case when new_entries.transaction_date is null then 0 else 1 end
        + coalesce(last_10min.entry_count, 0) as count_10min,
        case when new_entries.transaction_date is null then 0 else coalesce(new_entries.amount, 0) end
        + coalesce(last_10min.entry_amount, 0) as sum_10min,
        new_entries._lsn,
        new_entries._seq,
        new_entries._op,
        new_entries._committed_at,
        new_entries._ingested_at
    from new_entries
    left join last_10min
        on new_entries.user_id = last_10min.user_id and new_entries.user_entry = last_10min.user_entry
    where new_entries.weight = 1

),

timeline as (

    select evaluated.*, 1 as kind, cast(null as boolean) as is_present
    from evaluated

    union all

    select
        null as transaction_id,
        user_id,
        null as amount,
        null as transaction_date,
        null as prior_count,
        null as prior_amount,
        null as count_10min,
        null as sum_10min,
        _lsn,
        _seq,
        _op,
        null as _committed_at,
        null as _ingested_at,
        0 as kind,
        _op <> 'd' as is_present
    from user_events
    where _op <> 't'
    {%- if incremental %}
        and user_id in (select user_id from touched_users)
    {%- endif %}

),

with_presence as (

    select
        timeline.*,
        {{ last_known('is_present', 'partition by user_id order by _lsn, _seq, kind') }} as is_user_present,
        {{ last_known('case when kind = 0 then _lsn end', 'partition by user_id order by _lsn, _seq, kind') }} as user_lsn,
        {{ last_known('case when kind = 0 then _seq end', 'partition by user_id order by _lsn, _seq, kind') }} as user_seq
    from timeline

),

decided as (

    select
        with_presence.*,
        case
            when known_since._lsn is null or {{ is_before('with_presence', 'known_since') }} then null
            when with_presence.user_id is null then false
            when truncates._lsn is null then coalesce(with_presence.is_user_present, false)
            else coalesce(
                with_presence.is_user_present
                and (
                    with_presence.user_lsn > truncates._lsn
                    or (with_presence.user_lsn = truncates._lsn and with_presence.user_seq > truncates._seq)
                ),
                false
            )
        end as user_exists
    from with_presence
    left join known_since on true
    left join truncates
        on {{ is_before('truncates', 'with_presence') }}
        and (
            truncates.until_lsn is null
            or with_presence._lsn < truncates.until_lsn
            or (with_presence._lsn = truncates.until_lsn and with_presence._seq < truncates.until_seq)
        )
    where with_presence.kind = 1

),

features as (

    select
        'postgres.transactions' as source,
        cast(transaction_id as string) as transaction_id,
        user_id,
        cast(amount as double) as amount,
        transaction_date as event_time,
        _committed_at as source_committed_at,
        _ingested_at as landed_at,
        _op as op,
        case when user_id is not null and prior_count > 0
            then cast(prior_amount as double) / prior_count end as prior_mean,
        case when user_id is not null then prior_count else 0 end as prior_count,
        count_10min,
        cast(sum_10min as double) as sum_10min,
        user_exists,
        current_timestamp as scored_at,
        _lsn,
        _seq
    from decided

)

select * from features
