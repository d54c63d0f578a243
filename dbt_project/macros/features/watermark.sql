{#- The watermark of a stream of Kafka records, as one row and the column watermark: the smallest over its partitions
    of the newest event time less the allowed lateness. A partition that had no row for idle_seconds of landings
    (told by _ingested_at of the others, so that the same rows always give the same watermark) is not waited for. -#}
{% macro lake_watermark(relation, time) -%}
    select min(newest_time) - interval {{ var('allowed_lateness_seconds') }} seconds as watermark
    from (
        select
            newest_time,
            newest_landing,
            max(newest_landing) over () as lake_landing
        from (
            select max({{ time }}) as newest_time, max(_ingested_at) as newest_landing
            from {{ relation }}
            group by _topic, _partition
        ) as by_partition
    ) as partitions
    where newest_landing is null
        or {{ seconds_between('newest_landing', 'lake_landing') }} < {{ var('idle_seconds') }}
        or newest_landing = lake_landing
{%- endmacro %}
