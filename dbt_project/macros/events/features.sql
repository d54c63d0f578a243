{#- The model of a stream's fast path: the features of an event as of its arrival, which rules read. Later arrivals
    never count, however early their event time. `rows`: the stream's rows. -#}
{% macro event_features(name, rows) -%}
{%- set stream = stream_of(name) -%}
{%- if not execute -%}{{ return('') }}{%- endif -%}
{%- set incremental = is_incremental_build() -%}
{%- set new_payments = new_rows(rows) -%}
{%- set columns = (event_columns(stream).keys() | list) + ['_topic', '_partition', '_offset', '_timestamp', '_ingested_at'] -%}
{%- set payments = scored_payments(
    stream,
    rows,
    new_payments,
    sql=arriving_events(stream, new_payments),
    history='select * from ' ~ new_payments,
    order=ingestion_order('_arrival_commit') ~ ', _newest_time, _topic, _partition, _offset',
    columns=columns,
) %}

select
    {{ sql_text(stream.source_text) }} || _topic as source,
    {{ stream.id }} as transaction_id,
    {{ fast_path_key(stream) | join(', ') }},
    cast({{ stream.amount }} as double) as amount,
    {{ stream.time }} as event_time,
    _timestamp as source_committed_at,
    _ingested_at as landed_at,
    'c' as op,
    coalesce(is_amount_excluded, false) as is_amount_excluded,
    coalesce(is_time_excluded, false) as is_time_excluded,
    {{- scored_features(features_of(stream.features)) }}
    cast(null as boolean) as user_exists,
    current_timestamp as scored_at,
    _topic,
    _partition,
    _offset
    {{ further_columns(stream) }}
from {{ payments }} as payments
{%- endmacro %}

{#- Events with their order of arrival: by commit to bronze and offset, independently of batching; partitions that were
    ingested together, by event time. -#}
{% macro arriving_events(stream, relation) -%}
    select
        payments.*,
        max(case when is_time_excluded is not true then {{ stream.time }} end) over (
            partition by {{ ingestion_order('_arrival_commit') }}, _topic, _partition order by _offset
            rows between unbounded preceding and current row
        ) as _newest_time
    from (select *, {{ bronze_commit() }} as _arrival_commit from {{ relation }}) as payments
{%- endmacro %}
