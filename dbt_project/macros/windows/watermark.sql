{#- The watermark that closes windows, and what it is told by: of each partition the newest event time and landing, as
    relations of _topic, _partition, newest_time and newest_landing. -#}

{#- One row and the column watermark: the smallest of the partitions. With window_idle_seconds above 0 a partition that
    had no row for so many seconds of landings of the others is not waited for; the times of landing are in the data, so
    the same rows always give the same watermark. -#}
{% macro window_watermark(relation) -%}
    {%- set idle = var('window_idle_seconds') -%}
    select min(newest_time) - interval {{ var('allowed_lateness_seconds') }} seconds as watermark
    from (
        select
            max(newest_time) as newest_time,
            max(newest_landing) as newest_landing,
            max(max(newest_landing)) over () as lake_landing
        from {{ relation }} as landed
        group by _topic, _partition
    ) as partition_times
    {%- if idle > 0 %}
    where newest_landing is null
        or newest_landing = lake_landing
        or {{ seconds_between('newest_landing', 'lake_landing') }} < {{ idle }}
    {%- endif %}
{%- endmacro %}

{#- Of rows themselves. -#}
{% macro partition_times(rows, time) -%}
    (select _topic, _partition, {{ time }} as newest_time, _ingested_at as newest_landing from {{ rows }})
{%- endmacro %}

{#- Of the rows a model has seen before, kept in memory: one row for each partition. -#}
{% macro seen_partition_times(rows, time) %}
    {{ return(seen_totals(
        rows,
        key=['_topic', '_partition'],
        columns={
            '_topic': '_topic',
            '_partition': '_partition',
            'newest_time': time,
            'newest_landing': '_ingested_at',
        },
        totals={'newest_time': 'max(newest_time)', 'newest_landing': 'max(newest_landing)'},
    )) }}
{% endmacro %}

{#- Of those and of new ones. -#}
{% macro all_partition_times(seen_times, new_payments, time) -%}
    (
        select _topic, _partition, newest_time, newest_landing from {{ seen_times }}
        union all
        select _topic, _partition, newest_time, newest_landing from {{ partition_times(new_payments, time) }} as added
    )
{%- endmacro %}
