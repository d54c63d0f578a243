{{ config(strategy='append', tags=['hot']) }}

{%- set incremental = is_incremental_build() %}

with new_events as (

    select * from {{ new_rows(source('bronze', 'transactions')) }}

),

truncates as (

    select
        _lsn, _seq, _op, _committed_at, _ingested_at,
        coalesce(lag(_lsn) over (order by _lsn, _seq), -1) as after_lsn,
        coalesce(lag(_seq) over (order by _lsn, _seq), -1) as after_seq
    from new_events
    where _op = 't'

),
{% if incremental %}
touched_ids as (

    select distinct transaction_id from new_events where _op in ('u', 'd')

),

stored_entries as (

    select
        stored.transaction_id, stored.user_id, stored.amount, stored.transaction_date,
        stored.weight, stored._lsn, stored._seq, stored._committed_at, stored._ingested_at,
        row_number() over (
            partition by stored.transaction_id order by stored._lsn desc, stored._seq desc, stored.weight desc
        ) as recency
    from {{ this }} as stored
    where stored.transaction_id in (select transaction_id from touched_ids)
        or exists (select 1 from truncates)

),
{% endif %}
events as (

    select
        cast(transaction_id as bigint) as transaction_id,
        cast(user_id as bigint) as user_id,
        {{ try_cast('amount', 'decimal(38, 9)') }} as amount,
        cast(transaction_date as timestamp) as transaction_date,
        _op, _lsn, _seq, _committed_at, _ingested_at, true as is_new
    from new_events
    where _op <> 't'
    {%- if incremental %}

    union all

    select
        transaction_id, user_id, amount, transaction_date,
        'r' as _op, _lsn, _seq, _committed_at, _ingested_at, false as is_new
    from stored_entries
    where recency = 1 and weight = 1
    {%- endif %}

),

followed as (

    select
        events.*,
        lead(_op) over (partition by transaction_id order by _lsn, _seq) as next_op,
        lead(_lsn) over (partition by transaction_id order by _lsn, _seq) as next_lsn,
        lead(_seq) over (partition by transaction_id order by _lsn, _seq) as next_seq,
        lead(_committed_at) over (partition by transaction_id order by _lsn, _seq) as next_committed_at,
        lead(_ingested_at) over (partition by transaction_id order by _lsn, _seq) as next_ingested_at
    from events

),

versions as (

    select
        followed.*,
        case
            when truncates._lsn is null then false
            when followed.next_lsn is null then true
            else truncates._lsn < followed.next_lsn
                or (truncates._lsn = followed.next_lsn and truncates._seq < followed.next_seq)
        end as is_truncated,
        truncates._lsn as truncated_lsn,
        truncates._seq as truncated_seq,
        truncates._committed_at as truncated_at,
        truncates._ingested_at as truncate_ingested_at
    from followed
    left join truncates
        on {{ is_before('followed', 'truncates') }}
        and (
            followed._lsn > truncates.after_lsn
            or (followed._lsn = truncates.after_lsn and followed._seq > truncates.after_seq)
        )
    where followed._op <> 'd'

),

entries as (

    select
        transaction_id, user_id, amount, transaction_date,
        1 as weight, _lsn, _seq, _op, _committed_at, _ingested_at
    from versions
    where is_new

    union all

    select
        transaction_id, user_id, amount, transaction_date,
        -1 as weight,
        case when is_truncated then truncated_lsn else next_lsn end as _lsn,
        case when is_truncated then truncated_seq else next_seq end as _seq,
        case when is_truncated then 't' else next_op end as _op,
        case when is_truncated then truncated_at else next_committed_at end as _committed_at,
        case when is_truncated then truncate_ingested_at else next_ingested_at end as _ingested_at
    from versions
    where is_truncated or next_lsn is not null

),
{% if incremental %}
user_states as (

    select
        stored.user_id,
        max(stored.user_entry) as user_entry,
        max_by(stored.user_count, stored.user_entry) as user_count,
        max_by(stored.user_amount, stored.user_entry) as user_amount
    from {{ this }} as stored
    where stored.user_id in (select user_id from entries where user_id is not null)
    group by stored.user_id

),
{% endif %}
running as (

    select
        entries.*,
        row_number() over (
            partition by user_id order by _lsn, _seq, weight, transaction_id
        ) as user_entry,
        sum(case when amount is null then 0 else weight end) over (
            partition by user_id order by _lsn, _seq, weight, transaction_id
            rows between unbounded preceding and current row
        ) as user_count,
        sum(case when weight = 1 then amount else -amount end) over (
            partition by user_id order by _lsn, _seq, weight, transaction_id
            rows between unbounded preceding and current row
        ) as user_amount
    from entries

),

ledger as (

    select
        running.transaction_id,
        running.user_id,
        running.amount,
        running.transaction_date,
        running.weight,
        {%- if incremental %}
        case when running.user_id is not null
            then running.user_entry + coalesce(user_states.user_entry, 0) end as user_entry,
        case when running.user_id is not null
            then coalesce(running.user_count, 0) + coalesce(user_states.user_count, 0) end as user_count,
        case when running.user_id is not null
            then coalesce(running.user_amount, 0) + coalesce(user_states.user_amount, 0) end as user_amount,
        {%- else %}
        case when running.user_id is not null then running.user_entry end as user_entry,
        case when running.user_id is not null then coalesce(running.user_count, 0) end as user_count,
        case when running.user_id is not null then coalesce(running.user_amount, 0) end as user_amount,
        {%- endif %}
        running._lsn,
        running._seq,
        running._op,
        running._committed_at,
        running._ingested_at
    from running
    {%- if incremental %}
    left join user_states on running.user_id = user_states.user_id
    {%- endif %}

)

select * from ledger
