{#- Totals of an entity's ledger entries in windows that end at each new entry, used by change_features. Entries come
    in commit order with dates in any, so no window frame can say which lie in it. -#}

{#- CTEs of the window of so many seconds, from new_entries to last_<seconds>: of each new version with such entries
    before it, the totals of these. `parts`: those of this window (macros/features/arrival.sql). -#}
{% macro ledger_window(stream, ledger, seconds, parts, new_ledger, incremental) -%}
{%- set looked_at = stream.tables[stream.features].entries -%}
{%- set shifted = 'known.event_time + kind.step * interval ' ~ seconds ~ ' seconds' -%}
{%- set stretch = window_floor(shifted, 2 * seconds) -%}
{%- if incremental -%}
needed_{{ seconds }} as (

    {{ needed_spans('new_entries', seconds) }}

),

{% endif -%}
known_{{ seconds }} as (
    {%- if incremental %}

    select stored.entity_id, stored.entity_entry, stored.event_time, stored.amount, stored.weight, false as is_new
    from {{ counted_entries(seen_by_key(
        ledger,
        entry_columns(stream),
        ['entity_id', window_floor('event_time', seconds)],
        needed_spans(new_ledger, seconds),
    )) }} as stored
    inner join needed_{{ seconds }} as needed
        on stored.entity_id = needed.entity_id
        and {{ window_floor('stored.event_time', seconds) }} = needed.span

    union all
    {%- endif %}

    select entity_id, entity_entry, event_time, amount, weight, true as is_new
    from new_entries
    where entity_id is not null and event_time is not null

),

-- every time lies in two stretches of twice the window, a window apart; one of them holds all of the window before it
stretched_{{ seconds }} as (

    select
        known.entity_id,
        known.entity_entry,
        known.event_time,
        known.amount,
        known.weight,
        kind.step as kind,
        {{ stretch }} as stretch,
        known.is_new
        and known.weight = 1
        and {{ stretch }} + interval {{ seconds }} seconds <= {{ shifted }} as is_measured
    from known_{{ seconds }} as known
    cross join {{ numbers(0, 1) }} as kind

),

measured_stretches_{{ seconds }} as (

    select distinct entity_id, kind, stretch from stretched_{{ seconds }} where is_measured

),

placed_{{ seconds }} as (

    select
        stretched.*,
        row_number() over (
            partition by stretched.entity_id, stretched.kind, stretched.stretch order by stretched.entity_entry
        ) as place
    from stretched_{{ seconds }} as stretched
    inner join measured_stretches_{{ seconds }} as measured_stretches
        on stretched.entity_id = measured_stretches.entity_id
        and stretched.kind = measured_stretches.kind
        and stretched.stretch = measured_stretches.stretch

),

blocks_{{ seconds }} as (

    select placed.*, cast(floor(placed.place / {{ looked_at }}) as bigint) as block from placed_{{ seconds }} as placed

),

-- of a stretch the last {{ looked_at }} entries are looked at: joining all of an entity's would explode on a bulk load
last_{{ seconds }} as (

    select
        measured.entity_id,
        measured.entity_entry
        {%- for total, measure, _ in parts %},
        sum(earlier.weight * {{ of_entry(total, measure, 'earlier') }}) as {{ part_name(total, measure, seconds) }}
        {%- endfor %}
    from blocks_{{ seconds }} as measured
    cross join {{ numbers(0, 1) }} as back
    inner join blocks_{{ seconds }} as earlier
        on measured.entity_id = earlier.entity_id
        and measured.kind = earlier.kind
        and measured.stretch = earlier.stretch
        and measured.block - back.step = earlier.block
    where measured.is_measured
        and earlier.place < measured.place
        and earlier.place >= measured.place - {{ looked_at }}
        and earlier.event_time >= measured.event_time - interval {{ seconds }} seconds
        and earlier.event_time <= measured.event_time
    group by measured.entity_id, measured.entity_entry

)
{%- endmacro %}

{#- The stretches of a window's length in which earlier entries of an entity are looked for: that of each new version and
    the one before. `entries`: ledger rows. -#}
{% macro needed_spans(entries, seconds) -%}
    select distinct
        entries.entity_id,
        {{ window_floor('entries.event_time', seconds) }} - back.step * interval {{ seconds }} seconds as span
    from {{ entries }} as entries
    cross join {{ numbers(0, 1) }} as back
    where entries.entity_id is not null and entries.event_time is not null and entries.weight = 1
{%- endmacro %}

{#- What a ledger entry adds to a total of entries; the only measure is the amount. -#}
{% macro of_entry(total, measure, entry) -%}
    {%- if total == 's' -%} coalesce({{ entry }}.amount, 0)
    {%- elif measure -%} case when {{ entry }}.amount is null then 0 else 1 end
    {%- else -%} 1
    {%- endif -%}
{%- endmacro %}

{#- The entity's state just before an entry that opens a version: how many have an amount, or the sum; null: no entity. -#}
{% macro before_entry(total, entry) -%}
    {{ entry }}.{{ 'entity_count' if total == 'n' else 'entity_amount' }} - {{ of_entry(total, 'amount', entry) }}
{%- endmacro %}
