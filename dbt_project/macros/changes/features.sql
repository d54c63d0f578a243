{#- The fast-path features of a payment as of its commit, from the table's state just before. `name`: of the stream;
    `ledger`: its ledger; `known`: the bronze table of its entity (exists_in), if any. -#}
{% macro change_features(name, ledger, known=none) %}
{%- if not execute -%}{{ return('') }}{%- endif -%} {#- the streams are not known while dbt parses -#}
{%- set stream = stream_of(name) -%}
{%- set incremental = is_incremental_build() -%}
{%- set new_ledger = new_rows(ledger) -%}
{%- set own = role_columns(stream).values() | list -%}
{%- set payments = scored_payments(
    stream,
    ledger,
    new_ledger,
    sql=ledger_entries(stream, new_ledger, known, incremental),
    history='select * from ' ~ new_ledger,
    order='_lsn, _seq, weight, ' ~ quoted(stream.id),
    columns=own + ['is_amount_excluded', 'is_time_excluded', 'amount_text', 'user_exists', '_lsn', '_seq', '_op', '_committed_at', '_ingested_at'],
) %}

select
    {{ sql_text(stream.source_text) }} as source,
    cast({{ stream.id }} as string) as transaction_id,
    {{ entity_column(stream) }},
    {%- if stream.rates %}
    cast({{ stream.amount }} as double) as amount,
    {%- else %}
    {#- a double may exceed the ledger's decimal #}
    coalesce(cast({{ stream.amount }} as double), {{ try_cast('amount_text', 'double') }}) as amount,
    {%- endif %}
    {{ stream.time }} as event_time,
    _committed_at as source_committed_at,
    _ingested_at as landed_at,
    _op as op,
    coalesce(is_amount_excluded, false) as is_amount_excluded,
    coalesce(is_time_excluded, false) as is_time_excluded,
    {{- scored_features(features_of(stream.features)) }}
    user_exists,
    current_timestamp as scored_at,
    _lsn,
    _seq
    {{ further_columns(stream) }}
from {{ payments }} as payments
{% endmacro %}

{#- New entries of the ledger, those that begin a version with user_exists. -#}
{% macro ledger_entries(stream, new_ledger, known, incremental) -%}
{% if not known -%}
select entries.*, cast(null as boolean) as user_exists from {{ new_ledger }} as entries
{%- else -%}
with new_entries as (

    select entries.*, {{ entity_column(stream) }} as entity_id from {{ new_ledger }} as entries

),

{{ presence_events(stream, known, incremental) }},

{{ presence(stream, incremental) }}

select new_entries.*, decided.user_exists
from new_entries
left join decided
    on new_entries.weight = 1 and new_entries._lsn = decided._lsn and new_entries._seq = decided._seq
    and new_entries.{{ stream.id }} is not distinct from decided.transaction_id
{%- endif %}
{%- endmacro %}
