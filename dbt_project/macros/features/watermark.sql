{#- The watermark of a stream of Kafka records, as one row and the column watermark: the newest event time of the
    slowest partition less the allowed lateness. A partition that had no row for idle_seconds is not waited for; when
    none had, which `observed` tells (of all_observations), time goes on by itself (macro watermark_of). -#}
{% macro lake_watermark(stream, relation, observed=none) -%}
    {%- set landed -%}
    (
        select _topic, _partition, {{ stream.time }} as newest_time, _ingested_at as newest_landing
        from {{ relation }}
    )
    {%- endset -%}
    {{ watermark_of(stream, landed, setting('idle_seconds'), observed) }}
{%- endmacro %}

{#- Rows of control/idle_partitions, all of them at every build; a new one is something to build for. -#}
{% macro all_observations() %}
    {%- set observed = source('control', 'idle_partitions') -%}
    {%- do new_rows(observed) -%}
    {{ return(observed) }}
{% endmacro %}
