{{ config(strategy='append', tags=['hot']) }}

{%- set incremental = is_incremental_build() %}
{%- set new_transactions = new_rows(source('bronze', 'transactions')) %}
{#- Only amounts and sums stored before amounts were excluded are larger. They do not count: more would overflow. -#}
{%- set most = 1e24 %}

with new_events as (

    select * from {{ new_transactions }}

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

    select distinct {{ try_cast('transaction_id', 'bigint') }} as transaction_id
    from new_events
    where _op in ('u', 'd', 'r')

),

touched_entries as (

    select stored.*
    from {{ seen_by_key(
        this,
        entry_columns(),
        ['transaction_id'],
        "select " ~ try_cast('transaction_id', 'bigint') ~ " from " ~ new_transactions ~ " where _op in ('u', 'd', 'r')",
    ) }} as stored
    where stored.transaction_id in (select transaction_id from touched_ids)
        and not exists (select 1 from truncates)

    union all

    select stored.*
    from {{ seen_rows(this, entry_columns()) }} as stored
    where exists (select 1 from truncates)

),

stored_entries as (

    select
        stored.transaction_id, stored.user_id, stored.amount, stored.transaction_date,
        stored.weight, stored.is_amount_excluded, stored.is_time_excluded, stored._lsn, stored._seq,
        row_number() over (
            partition by stored.transaction_id order by stored._lsn desc, stored._seq desc, stored.weight desc
        ) as recency
    from touched_entries as stored

),
{% endif %}
typed_events as (

    select
        {{ try_cast('transaction_id', 'bigint') }} as transaction_id,
        {{ try_cast('user_id', 'bigint') }} as user_id,
        {{ try_cast('amount', 'decimal(38, 9)') }} as amount,
        {{ try_cast('transaction_date', 'timestamp') }} as transaction_date,
        amount is not null or {{ is_in_text('amount') }} as has_amount,
        transaction_date is not null or {{ is_in_text('transaction_date') }} as has_date,
        case
            when {{ try_cast('amount', 'decimal(38, 9)') }} is null
                then coalesce(cast(amount as string), {{ json_text('_text', 'amount') }})
        end as amount_text,
        _op, _lsn, _seq, _committed_at, _ingested_at
    from new_events
    where _op <> 't'

),

events as (

    select
        transaction_id,
        user_id,
        amount,
        transaction_date,
        {{ excludes_amount('amount', 'has_amount') }} as is_amount_excluded,
        {{ excludes_time('transaction_date', 'has_date', 'coalesce(_committed_at, _ingested_at)') }} as is_time_excluded,
        amount_text,
        _op, _lsn, _seq, _committed_at, _ingested_at, true as is_new
    from typed_events
    {%- if incremental %}

    union all

    select
        transaction_id, user_id, amount, transaction_date,
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded,
        null as amount_text,
        'r' as _op, _lsn, _seq, null as _committed_at, null as _ingested_at, false as is_new
    from stored_entries
    where recency = 1 and weight = 1
    {%- endif %}

),

untruncated as (

    -- the first truncate after each event, if there is one
    select
        events.*,
        truncates._lsn as truncated_lsn,
        truncates._seq as truncated_seq,
        truncates._committed_at as truncated_at,
        truncates._ingested_at as truncate_ingested_at
    from events
    left join truncates
        on {{ is_before('events', 'truncates') }}
        and (
            events._lsn > truncates.after_lsn
            or (events._lsn = truncates.after_lsn and events._seq > truncates.after_seq)
        )

),

compared as (

    select
        untruncated.*,
        coalesce(
            _op <> 'd'
            and lag(_op) over in_order <> 'd'
            and (
                lag(truncated_lsn) over in_order is null
                or lag(truncated_lsn) over in_order > _lsn
                or (lag(truncated_lsn) over in_order = _lsn and lag(truncated_seq) over in_order > _seq)
            )
            and lag(user_id) over in_order is not distinct from user_id
            and lag(amount) over in_order is not distinct from amount
            and lag(transaction_date) over in_order is not distinct from transaction_date
            and lag(is_amount_excluded) over in_order = is_amount_excluded
            and lag(is_time_excluded) over in_order = is_time_excluded,
            false
        ) as is_unchanged
    from untruncated
    window in_order as (partition by transaction_id order by _lsn, _seq)

),

followed as (

    select
        compared.*,
        lead(_op) over in_order as next_op,
        lead(_lsn) over in_order as next_lsn,
        lead(_seq) over in_order as next_seq,
        lead(_committed_at) over in_order as next_committed_at,
        lead(_ingested_at) over in_order as next_ingested_at
    from compared
    where not is_unchanged
    window in_order as (partition by transaction_id order by _lsn, _seq)

),

versions as (

    select
        followed.*,
        case
            when truncated_lsn is null then false
            when next_lsn is null then true
            else truncated_lsn < next_lsn or (truncated_lsn = next_lsn and truncated_seq < next_seq)
        end as is_truncated
    from followed
    where _op <> 'd'

),

entries as (

    select
        transaction_id, user_id, amount, transaction_date, is_amount_excluded, is_time_excluded, amount_text,
        1 as weight, _lsn, _seq, _op, _committed_at, _ingested_at
    from versions
    where is_new

    union all

    select
        transaction_id, user_id, amount, transaction_date, is_amount_excluded, is_time_excluded, null as amount_text,
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
        stored.user_entry,
        case when not {{ is_plausible('stored.user_amount', most) }} then 0 else stored.user_count end as user_count,
        case when not {{ is_plausible('stored.user_amount', most) }} then 0 else stored.user_amount end as user_amount
    from {{ seen_totals(
        this,
        key=['user_id'],
        columns={
            'user_id': 'user_id',
            'user_entry': 'user_entry',
            'user_count': 'user_count',
            'user_amount': 'user_amount',
        },
        totals={
            'user_count': 'max_by(user_count, user_entry)',
            'user_amount': 'max_by(user_amount, user_entry)',
            'user_entry': 'max(user_entry)',
        },
    ) }} as stored
    where stored.user_id in (select user_id from entries where user_id is not null)

),
{% endif %}
counted as (

    select
        entries.*,
        case
            when not is_amount_excluded and not is_time_excluded and {{ is_plausible('amount', most) }} then amount
        end as counted_amount
    from entries

),

running as (

    select
        counted.*,
        row_number() over (
            partition by user_id order by _lsn, _seq, weight, transaction_id
        ) as user_entry,
        sum(case when counted_amount is null then 0 else weight end) over (
            partition by user_id order by _lsn, _seq, weight, transaction_id
            rows between unbounded preceding and current row
        ) as user_count,
        sum(case when weight = 1 then counted_amount else -counted_amount end) over (
            partition by user_id order by _lsn, _seq, weight, transaction_id
            rows between unbounded preceding and current row
        ) as user_amount
    from counted

),

ledger as (

    select
        running.transaction_id,
        running.user_id,
        running.amount,
        running.transaction_date,
        running.weight,
        running.is_amount_excluded,
        running.is_time_excluded,
        running.amount_text,
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
