{{ config(strategy='append', tags=['hot']) }}

{%- set incremental = is_incremental_build() %}
{%- set new_ledger = new_rows(ref('transactions_ledger')) %}
{%- set features = features_of('transaction_features') %}
{%- set parts = arrival_parts(features) %}

with new_entries as (

    select * from {{ counted_entries(new_ledger) }}

),

user_events as (

    select
        {{ try_cast('user_id', 'bigint') }} as user_id,
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

{% endif %}
{%- for seconds in part_windows(parts) -%}
{{ ledger_window(
    seconds, parts | selectattr(2, 'equalto', seconds) | list, counted_entries(new_ledger), incremental
) }},

{% endfor -%}
evaluated as (

    select
        new_entries.transaction_id,
        new_entries.user_id,
        {#- a double holds more than the ledger's decimal -#}
        coalesce(cast(new_entries.given_amount as double), {{ try_cast('new_entries.amount_text', 'double') }}) as amount,
        new_entries.given_date as transaction_date,
        coalesce(new_entries.is_amount_excluded, false) as is_amount_excluded,
        coalesce(new_entries.is_time_excluded, false) as is_time_excluded,
        {%- for total, measure, seconds in parts %}
        {%- set name = part_name(total, measure, seconds) %}
        {%- if seconds is none %}
        coalesce({{ before_entry(total, 'new_entries') }}, 0) as {{ name }},
        {%- else %}
        case when new_entries.transaction_date is null then 0 else {{ of_entry(total, measure, 'new_entries') }} end
        + coalesce(last_{{ seconds }}.{{ name }}, 0) as {{ name }},
        {%- endif %}
        {%- endfor %}
        new_entries._lsn,
        new_entries._seq,
        new_entries._op,
        new_entries._committed_at,
        new_entries._ingested_at
    from new_entries
    {%- for seconds in part_windows(parts) %}
    left join last_{{ seconds }}
        on new_entries.user_id = last_{{ seconds }}.user_id and new_entries.user_entry = last_{{ seconds }}.user_entry
    {%- endfor %}
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
        null as is_amount_excluded,
        null as is_time_excluded
        {{- part_columns(parts, 'null') }},
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
        amount,
        transaction_date as event_time,
        _committed_at as source_committed_at,
        _ingested_at as landed_at,
        _op as op,
        is_amount_excluded,
        is_time_excluded,
        {{- arrival_features(features) }}
        user_exists,
        current_timestamp as scored_at,
        _lsn,
        _seq
    from decided

)

select * from features
