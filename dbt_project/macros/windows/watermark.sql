{#- The watermark that closes windows, as one row and the column watermark, of a relation of _topic, _partition,
    newest_time and newest_landing: the smallest of the partitions. With window_idle_seconds above 0 a partition that
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
