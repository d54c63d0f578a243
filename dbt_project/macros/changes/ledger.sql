{#- The ledger of a stream of changes, in commit order: a version of a payment that opens is +1 for its entity; one that
    is closed by an update, delete or truncate is -1. `name`: of the stream; `events`: the bronze table; `rates`: the
    bronze table of rates, for a stream with amounts of several currencies (macros/rates.sql). -#}
{% macro change_ledger(name, events, rates=none) %}
{%- if not execute -%}{{ return('') }}{%- endif -%} {#- the streams are not known while dbt parses -#}
{%- set stream = stream_of(name) -%}
{%- set incremental = is_incremental_build() -%}
{%- set changes = new_changes(events) -%}
{%- set id, id_type = stream.id, stream_type(stream, stream.id) -%}
{%- set others = carried_columns(stream) -%}
{%- set texts = text_columns(stream) -%}
{%- set resolved = 'filled' if texts else 'events' -%}
with {{ 'recursive ' if texts }}new_events as (

    select * from {{ changes }}{{ ' where false' if not stream.is_declared }}

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

    select distinct {{ try_cast(id, id_type) }} as transaction_id
    from new_events
    where _op in ('u', 'd', 'r')

),

touched_entries as (

    select stored.*
    from {{ seen_by_key(
        this,
        entry_columns(stream),
        ['transaction_id'],
        "select " ~ try_cast(id, id_type) ~ " from " ~ changes ~ " where _op in ('u', 'd', 'r')",
    ) }} as stored
    where stored.transaction_id in (select transaction_id from touched_ids)
        and not exists (select 1 from truncates)

    union all

    select stored.*
    from {{ seen_rows(this, entry_columns(stream)) }} as stored
    where exists (select 1 from truncates)

),

stored_entries as (

    select
        stored.transaction_id, stored.entity_id, stored.amount, stored.event_time{{ carried(stream, 'stored') }},
        stored.weight, stored.is_amount_excluded, stored.is_time_excluded, stored._lsn, stored._seq,
        row_number() over (
            partition by stored.transaction_id order by stored._lsn desc, stored._seq desc, stored.weight desc
        ) as recency
    from touched_entries as stored

),
{% endif %}
typed_events as (

    select
        {{ try_cast(id, id_type) }} as transaction_id,
        {{ try_cast(entity_column(stream), stream_type(stream, entity_column(stream))) }} as entity_id,
        {%- for own, name in others.items() %}
        {{ try_cast(own, stream_type(stream, own)) }} as {{ name }},
        {%- endfor %}
        {%- if stream.rates %}
        {{ stream.amount }} as sent_amount,
        {{ currency_code(stream.rates.code) }} as currency,
        {%- else %}
        {{ try_cast(stream.amount, 'decimal(38, 9)') }} as amount,
        {%- endif %}
        {{ utc_time(stream.time, stream.fields.get(stream.time, 'timestamp'), stream.timezone) }} as event_time,
        {{ stream.amount }} is not null or {{ is_in_text(stream.amount) }} as has_amount,
        {{ stream.time }} is not null or {{ is_in_text(stream.time) }} as has_time,
        case
            when {{ try_cast(stream.amount, 'decimal(38, 9)') }} is null
                then coalesce(cast({{ stream.amount }} as string), {{ json_text('_text', stream.amount) }})
        end as amount_text,
        _op, _lsn, _seq, _committed_at, _ingested_at{{ ', _unchanged' if texts }}
    from new_events
    where _op <> 't'

),
{% if stream.rates %}
{{ rates_at(stream.rates, rates, '(select currency, event_time as moment from typed_events) as payments') }},

rated_events as (

    select typed_events.*, {{ rate_for(stream, 'typed_events.currency') }} as _rate
    from typed_events
    left join rate_of on typed_events.currency = rate_of.currency and typed_events.event_time = rate_of.moment

),

converted_events as (

    select rated_events.*, {{ converted_amount('sent_amount', '_rate') }} as amount from rated_events

),
{% endif %}
events as (

    select
        transaction_id,
        entity_id,
        amount,
        event_time
        {{- carried(stream) }},
        {{ excludes_amount('amount', 'has_amount', stream) }} as is_amount_excluded,
        {{ excludes_time('event_time', 'has_time', 'coalesce(_committed_at, _ingested_at)', stream) }} as is_time_excluded,
        amount_text,
        _op, _lsn, _seq, _committed_at, _ingested_at, true as is_new
        {{- ', _rate' if stream.rates }}
        {{- ', _unchanged, cast(null as string) as _lake_key_text' if texts }}
    from {{ 'converted_events' if stream.rates else 'typed_events' }}
    {%- if incremental %}

    union all

    select
        transaction_id, entity_id, amount, event_time{{ carried(stream) }},
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded,
        null as amount_text,
        'r' as _op, _lsn, _seq, null as _committed_at, null as _ingested_at, false as is_new
        {{- ', cast(null as double) as _rate' if stream.rates }}
        {{- ', null as _unchanged, null as _lake_key_text' if texts }}
    from stored_entries
    where recency = 1 and weight = 1
    {%- endif %}

),
{% if texts %}
sent_values as (

    select
        {% for own, name in texts.items() %}{{ name }} as {{ quoted(own) }}, {% endfor -%}
        _lsn, _seq, cast(null as string) as _text
    from events
    where _op <> 'd'

),

{{ resolve_unchanged(texts.keys() | list, ['transaction_id']) }},

filled as (

    select
        events.* {{ without(texts.values() | list) }}
        {%- for own, name in texts.items() %},
        coalesce(events.{{ name }}, filled_events.{{ quoted(own) }}) as {{ name }}
        {%- endfor %}
    from events
    left join filled_events on events._lsn = filled_events._lsn and events._seq = filled_events._seq

),
{% endif %}
untruncated as (

    -- the first truncate after each event, if any
    select
        {{ resolved }}.*,
        truncates._lsn as truncated_lsn,
        truncates._seq as truncated_seq,
        truncates._committed_at as truncated_at,
        truncates._ingested_at as truncate_ingested_at
    from {{ resolved }}
    left join truncates
        on {{ is_before(resolved, 'truncates') }}
        and (
            {{ resolved }}._lsn > truncates.after_lsn
            or ({{ resolved }}._lsn = truncates.after_lsn and {{ resolved }}._seq > truncates.after_seq)
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
            and lag(entity_id) over in_order is not distinct from entity_id
            {%- for name in others.values() %}
            and lag({{ name }}) over in_order is not distinct from {{ name }}
            {%- endfor %}
            and lag(amount) over in_order is not distinct from amount
            and lag(event_time) over in_order is not distinct from event_time
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
        transaction_id, entity_id, amount, event_time{{ carried(stream) }}, is_amount_excluded, is_time_excluded, amount_text,
        1 as weight, _lsn, _seq, _op, _committed_at, _ingested_at{{ ', _rate' if stream.rates }}
    from versions
    where is_new

    union all

    select
        transaction_id, entity_id, amount, event_time{{ carried(stream) }}, is_amount_excluded, is_time_excluded, null as amount_text,
        -1 as weight,
        case when is_truncated then truncated_lsn else next_lsn end as _lsn,
        case when is_truncated then truncated_seq else next_seq end as _seq,
        case when is_truncated then 't' else next_op end as _op,
        case when is_truncated then truncated_at else next_committed_at end as _committed_at,
        case when is_truncated then truncate_ingested_at else next_ingested_at end as _ingested_at
        {{- ', cast(null as double) as _rate' if stream.rates }}
    from versions
    where is_truncated or next_lsn is not null

),
ledger as (

    select
        {%- for name, own in role_columns(stream).items() %}
        {{ name }} as {{ own }},
        {%- endfor %}
        weight,
        is_amount_excluded,
        is_time_excluded,
        amount_text,
        {{- '\n        _rate,' if stream.rates }}
        _lsn,
        _seq,
        _op,
        _committed_at,
        _ingested_at
    from entries

)

select * from ledger
{% endmacro %}
