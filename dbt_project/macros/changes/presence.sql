{#- Whether a payment's entity existed when the payment was committed, that is, had a row in the table that `exists_in`
    names. Used by change_features. -#}

{#- CTEs of that table's changes. `known`: the bronze table. -#}
{% macro presence_events(stream, known, incremental) -%}
entity_events as (

    select
        {{ try_cast('entity_id', stream_type(stream, entity_column(stream))) }} as entity_id,
        _op,
        _lsn,
        case when _op = 'r' then -1 else _seq end as _seq
    from {{ seen_rows(
        known,
        {'entity_id': stream.entities[stream.entity].exists_in.column, '_op': '_op', '_lsn': '_lsn', '_seq': '_seq'},
        newest=true,
    ) }}

),

known_since as (

    select _lsn, _seq from entity_events order by _lsn, _seq limit 1

),

truncates as (

    select
        _lsn, _seq,
        lead(_lsn) over (order by _lsn, _seq) as until_lsn,
        lead(_seq) over (order by _lsn, _seq) as until_seq
    from entity_events
    where _op = 't'

)
{%- if incremental %},

new_entities as (

    select distinct entity_id from new_entries where entity_id is not null

)
{%- endif %}
{%- endmacro %}

{#- CTEs up to `decided`: for each entry that begins a version, whether its entity existed (user_exists). -#}
{% macro presence(stream, incremental) -%}
timeline as (

    select {{ stream.id }} as transaction_id, entity_id, _lsn, _seq, 1 as kind, cast(null as boolean) as is_present
    from new_entries
    where weight = 1

    union all

    select null as transaction_id, entity_id, _lsn, _seq, 0 as kind, _op <> 'd' as is_present
    from entity_events
    where _op <> 't'
    {%- if incremental %}
        and entity_id in (select entity_id from new_entities)
    {%- endif %}

),

with_presence as (

    select
        timeline.*,
        {{ last_known('is_present', 'partition by entity_id order by _lsn, _seq, kind') }} as was_present,
        {{ last_known('case when kind = 0 then _lsn end', 'partition by entity_id order by _lsn, _seq, kind') }} as since_lsn,
        {{ last_known('case when kind = 0 then _seq end', 'partition by entity_id order by _lsn, _seq, kind') }} as since_seq
    from timeline

),

decided as (

    select
        with_presence.transaction_id,
        with_presence._lsn,
        with_presence._seq,
        case
            when known_since._lsn is null or {{ is_before('with_presence', 'known_since') }} then null
            when with_presence.entity_id is null then false
            when truncates._lsn is null then coalesce(with_presence.was_present, false)
            else coalesce(
                with_presence.was_present
                and (
                    with_presence.since_lsn > truncates._lsn
                    or (with_presence.since_lsn = truncates._lsn and with_presence.since_seq > truncates._seq)
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

)
{%- endmacro %}
