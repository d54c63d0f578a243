{#- The model of events that arrived after their window had closed, which is when the watermark reaches its end. The
    watermark is the newest event time among earlier offsets of the same partition minus the allowed lateness. `rows`:
    the stream's rows. -#}
{% macro late_events(name, rows) -%}
{%- set stream = stream_of(name) -%}
{%- if not execute -%}{{ return('') }}{%- endif -%}
{%- set time = stream.time -%}
{%- set columns = [stream.id] + fast_path_key(stream) + [time, stream.amount] -%}

with arrivals as (

    select
        {{ columns | join(', ') }}, _topic, _partition, _offset, _timestamp, _ingested_at,
        {{ bronze_commit() }} as _bronze_commit
    from {{ counted_events(stream, new_rows(rows)) }}
    where {{ time }} is not null

),
{% if is_incremental_build() %}
earlier_maximum as (

    select _topic, _partition, newest_time
    from {{ seen_totals(
        rows,
        key=['_topic', '_partition'],
        columns={'_topic': '_topic', '_partition': '_partition', 'newest_time': time},
        totals={'newest_time': 'max(newest_time)'},
        where='is_time_excluded is not true',
    ) }}

),
{% endif %}
newest_before as (

    select
        arrivals.*,
        max({{ time }}) over (
            -- the offsets of a recreated topic start again
            partition by _topic, _partition order by {{ ingestion_order() }}, _offset
            rows between unbounded preceding and 1 preceding
        ) as newest_time
    from arrivals

),

watermarked as (

    select
        {%- for column in columns + ['_topic', '_partition', '_offset', '_timestamp', '_ingested_at'] %}
        newest_before.{{ column }},
        {%- endfor %}
        {%- if is_incremental_build() %}
        greatest(newest_before.newest_time, earlier_maximum.newest_time)
        {%- else %}
        newest_before.newest_time
        {%- endif %} - interval {{ limit_of(stream, 'allowed_lateness_seconds') }} seconds as watermark
    from newest_before
    {%- if is_incremental_build() %}
    left join earlier_maximum
        on newest_before._topic = earlier_maximum._topic and newest_before._partition = earlier_maximum._partition
    {%- endif %}

),

windowed as (

    select * from {{ tumble('watermarked', time, stream.late_window_seconds) }}

),

late as (

    select
        {{ columns | join(',\n        ') }},
        window_start,
        window_end,
        watermark,
        {{ seconds_between(time, 'watermark') }} as seconds_late,
        'window closed by watermark' as reason,
        _topic,
        _partition,
        _offset,
        _timestamp,
        _ingested_at
    from windowed
    where window_end <= watermark

)

select * from late
{%- endmacro %}
