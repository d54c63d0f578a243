{#- The watermark of a stream of Kafka records, as one row and the column watermark: the newest event time of the
    slowest partition minus the allowed lateness. Partitions without rows for idle_seconds are ignored. If all are idle,
    which `observed` (from all_observations) reports, the watermark advances with the clock (macro watermark_of). -#}
{% macro lake_watermark(stream, relation, observed=none) -%}
    {%- set landed -%}
    (
        select _topic, _partition, {{ stream.time }} as newest_time, _ingested_at as newest_landing
        from {{ relation }}
    )
    {%- endset -%}
    {{ watermark_of(stream, landed, setting('idle_seconds'), observed) }}
{%- endmacro %}

{#- All rows of control/idle_partitions, at every build; a new one triggers a build. -#}
{% macro all_observations() %}
    {%- set observed = source('control', 'idle_partitions') -%}
    {%- do new_rows(observed) -%}
    {{ return(observed) }}
{% endmacro %}
