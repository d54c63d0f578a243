{#- The watermark that closes windows, as one row and the column watermark, of a relation of _topic, _partition,
    newest_time and newest_landing. With window_idle_seconds above 0, partitions without rows for this long are
    ignored. `observed`: the result of observations(). -#}
{% macro window_watermark(stream, relation, observed=none) -%}
    {{ watermark_of(stream, relation, setting('window_idle_seconds') or none, observed) }}
{%- endmacro %}

{#- The newest event time of the slowest partition that is not ignored, minus the allowed lateness. Ignored are
    partitions without rows while the others ingested for `idle` seconds (none: no partition), and those whose newest
    event is more than far_behind_seconds behind the newest of all, unless event times have no limit (max_future_seconds
    0). If nothing has been ingested for `idle` seconds, by `observed` (a relation of topic and observed_at, or none),
    all partitions are ignored, and the newest event time advances with the clock, `idle` seconds behind it. All times
    are in the data, so the same data always give the same watermark. -#}
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

{#- Heartbeats of an idle source, as a relation of topic and observed_at, for window_watermark; none if time does not
    close windows. A new heartbeat triggers a build. With heartbeats, a watermark is never behind that of the rows
    alone, so the latter decides which windows have been emitted and from where stored versions are read. -#}
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

{#- The input of the watermark: the newest event time and ingestion time of each partition, as relations of _topic,
    _partition, newest_time and newest_landing. From rows. -#}
{% macro partition_times(rows, time) -%}
    (select _topic, _partition, {{ time }} as newest_time, _ingested_at as newest_landing from {{ rows }})
{%- endmacro %}

{#- From the rows a model has read before, cached in memory: one row for each partition. -#}
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

{#- From these and new rows. -#}
{% macro all_partition_times(seen_times, new_payments, time) -%}
    (
        select _topic, _partition, newest_time, newest_landing from {{ seen_times }}
        union all
        select _topic, _partition, newest_time, newest_landing from {{ partition_times(new_payments, time) }} as added
    )
{%- endmacro %}
