{{ config(strategy='append', tags=['hot']) }}

{%- set entries_looked_at = 30 %}

with new_entries as (

    select * from {{ new_rows(ref('transactions_ledger')) }}

),

user_events as (

    select
        cast(user_id as bigint) as user_id,
        _op,
        _lsn,
        case when _op = 'r' then -1 else _seq end as _seq
    from {{ source('bronze', 'users') }}

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
{% if is_incremental_build() %}
touched_users as (

    select user_id, min(user_entry) as first_entry
    from new_entries
    where user_id is not null
    group by user_id

),

entries as (

    select stored.*, stored.user_entry >= touched_users.first_entry as is_new
    from {{ ref('transactions_ledger') }} as stored
    inner join touched_users
        on stored.user_id = touched_users.user_id
        and stored.user_entry > touched_users.first_entry - {{ entries_looked_at }}

    union all

    select new_entries.*, true as is_new
    from new_entries
    where user_id is null

),
{% else %}
entries as (

    select new_entries.*, true as is_new from new_entries

),
{% endif %}
-- a join by entry number: thirty window functions would cost more to plan than a micro-batch to compute
last_10min as (

    select
        entries.user_id,
        entries.user_entry,
        sum(earlier.weight) as entry_count,
        sum(earlier.weight * coalesce(earlier.amount, 0)) as entry_amount
    from entries
    cross join {{ numbers(1, entries_looked_at - 1) }} as back
    inner join entries as earlier
        on entries.user_id = earlier.user_id
        and entries.user_entry - back.step = earlier.user_entry
    where entries.weight = 1
        and entries.is_new
        and earlier.transaction_date >= entries.transaction_date - interval 10 minutes
        and earlier.transaction_date <= entries.transaction_date
    group by entries.user_id, entries.user_entry

),

evaluated as (

    select
        entries.transaction_id,
        entries.user_id,
        entries.amount,
        entries.transaction_date,
        entries.user_count - case when entries.amount is null then 0 else 1 end as prior_count,
        entries.user_amount - coalesce(entries.amount, 0) as prior_amount,
        case when entries.transaction_date is null then 0 else 1 end
        + coalesce(last_10min.entry_count, 0) as count_10min,
        case when entries.transaction_date is null then 0 else coalesce(entries.amount, 0) end
        + coalesce(last_10min.entry_amount, 0) as sum_10min,
        entries._lsn,
        entries._seq,
        entries._op,
        entries._committed_at,
        entries._ingested_at
    from entries
    left join last_10min
        on entries.user_id = last_10min.user_id and entries.user_entry = last_10min.user_entry
    where entries.weight = 1 and entries.is_new

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
    {%- if is_incremental_build() %}
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
        _lsn,
        _seq
    from decided

)

select * from features
