{#- The fast-path features of a payment as of its commit, computed from the ledger up to there. `name`: of the stream;
    `ledger`: its ledger; `known`: the bronze table that knows its entity (exists_in), if there is one. -#}
{% macro change_features(name, ledger, known=none) %}
{%- if not execute -%}{{ return('') }}{%- endif -%} {#- which streams there are is not known while dbt parses -#}
{%- set stream = stream_of(name) -%}
{%- set incremental = is_incremental_build() -%}
{%- set new_ledger = counted_entries(new_entries(stream, new_rows(ledger))) -%}
{%- set features = features_of(stream.features) -%}
{%- set parts = arrival_parts(features) -%}
with new_entries as (

    select * from {{ new_ledger }} as entries

),

{% if known -%}
{{ presence_events(stream, known, incremental) }},

{% endif -%}
{%- for seconds in part_windows(parts) -%}
{{ ledger_window(
    stream, ledger, seconds, parts | selectattr(2, 'equalto', seconds) | list, new_ledger, incremental
) }},

{% endfor -%}
evaluated as (

    select
        new_entries.transaction_id,
        new_entries.entity_id,
        {#- a double holds more than the ledger's decimal -#}
        coalesce(cast(new_entries.given_amount as double), {{ try_cast('new_entries.amount_text', 'double') }}) as amount,
        new_entries.given_time as event_time,
        coalesce(new_entries.is_amount_excluded, false) as is_amount_excluded,
        coalesce(new_entries.is_time_excluded, false) as is_time_excluded,
        {%- for total, measure, seconds in parts %}
        {%- set name = part_name(total, measure, seconds) %}
        {%- if seconds is none %}
        coalesce({{ before_entry(total, 'new_entries') }}, 0) as {{ name }},
        {%- else %}
        case when new_entries.event_time is null then 0 else {{ of_entry(total, measure, 'new_entries') }} end
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
        on new_entries.entity_id = last_{{ seconds }}.entity_id
        and new_entries.entity_entry = last_{{ seconds }}.entity_entry
    {%- endfor %}
    where new_entries.weight = 1

),

{% if known -%}
{{ presence(parts, incremental) }},

{% endif -%}
features as (

    select
        {{ sql_text(stream.source_text) }} as source,
        cast(transaction_id as string) as transaction_id,
        entity_id as {{ entity_column(stream) }},
        amount,
        event_time,
        _committed_at as source_committed_at,
        _ingested_at as landed_at,
        _op as op,
        is_amount_excluded,
        is_time_excluded,
        {{- arrival_features(features) }}
        {{ 'entity_exists' if known else 'cast(null as boolean)' }} as user_exists,
        current_timestamp as scored_at,
        _lsn,
        _seq
    from {{ 'decided' if known else 'evaluated' }}

)

select * from features
{% endmacro %}
