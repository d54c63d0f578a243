{#- The watermark that closes windows, as one row and the column watermark, of a relation of _topic, _partition,
    newest_time and newest_landing. With window_idle_seconds above 0 a partition that had no row for so many seconds is
    not waited for. `observed`: what observations() answers. -#}
{% macro window_watermark(stream, relation, observed=none) -%}
    {{ watermark_of(stream, relation, setting('window_idle_seconds') or none, observed) }}
{%- endmacro %}

{#- The newest event time of the slowest partition that is waited for, less the allowed lateness. None is waited for
    that had no row for `idle` seconds (none: all are) of landings of the others, and none whose newest event is very
    old: more than far_behind_seconds behind the newest of all, unless event times have no limit (max_future_seconds 0).
    When nothing has landed for so long, by `observed` (a relation of topic and observed_at, or none), no partition is: the
    newest event time goes on with the clock, `idle` seconds behind it. All times are in the data, so the same data
    always give the same watermark. -#}
{% macro watermark_of(stream, relation, idle, observed=none) -%}
    select
        {%- if observed is not none and idle is not none %}
        case
            when max(waited) >= 0 then {{ later_by('max(newest_time)', 'max(waited)') }}
            else min(newest_time)
        end
        {%- else %}
        min(newest_time)
        {%- endif %} - interval {{ limit_of(stream, 'allowed_lateness_seconds') }} seconds as watermark
    from (
        select
            by_partition.*
            {%- if observed is not none and idle is not none %},
            {{ microseconds('observed.observed_at') }} - {{ microseconds('by_partition.lake_landing') }}
            - {{ (idle * 1000000) | int }} as waited
            {%- endif %}
        from (
            select
                max(newest_time) as newest_time,
                max(newest_landing) as newest_landing,
                max(max(newest_landing)) over () as lake_landing,
                max(max(newest_time)) over () as lake_newest_time
            from {{ relation }} as landed
            group by _topic, _partition
        ) as by_partition
        {%- if observed is not none and idle is not none %}
        cross join (
            select max(observed_at) as observed_at
            from {{ observed }} as observations
            where topic in (select _topic from {{ relation }} as of_topics)
        ) as observed
        {%- endif %}
    ) as partition_times
    where true
    {%- if idle is not none %}
        and (
            newest_landing is null
            or newest_landing = lake_landing
            or {{ seconds_between('newest_landing', 'lake_landing') }} < {{ idle }}
        )
    {%- endif %}
    {%- if limit_of(stream, 'max_future_seconds') %}
        and {{ seconds_between('newest_time', 'lake_newest_time') }} <= {{ var('far_behind_seconds') }}
    {%- endif %}
{%- endmacro %}

{#- When the source was observed to have nothing more, as a relation of topic and observed_at, for window_watermark; none where
    time is not to close windows. A new observation is something to build for. With observations a watermark lies never
    behind that of the rows alone, which does for what has been emitted and from where on stored versions are read. -#}
{% macro observations(incremental) %}
    {%- if not setting('window_idle_seconds') -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set observed = source('control', 'idle_partitions') -%}
    {%- set new = new_rows(observed) -%}
    {%- if not incremental -%}
        {{ return(new) }}
    {%- endif -%}
    {%- set seen = seen_totals(
        observed,
        key=['topic'],
        columns={'topic': 'topic', 'observed_at': 'observed_at'},
        totals={'observed_at': 'max(observed_at)'},
    ) -%}
    {{ return('(select topic, observed_at from ' ~ seen ~ ' union all select topic, observed_at from ' ~ new ~ ')') }}
{% endmacro %}

{#- What the watermark is told by: of each partition the newest event time and landing, as relations of _topic, _partition,
    newest_time and newest_landing. Of rows themselves. -#}
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
        where='is_time_excluded is not true',
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
