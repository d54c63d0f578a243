{{ config(strategy='append', tags=['hot']) }}

{%- set window_seconds = window_seconds_of('user_trans_amt_last_360min_windowed') %}

with arrivals as (

    select
        trans_num, user_id, trans_date_trans_time, amt, _topic, _partition, _offset, _timestamp, _ingested_at,
        {{ bronze_commit() }} as _bronze_commit
    from {{ counted_payments(new_rows(ref('card_transactions'))) }}
    where trans_date_trans_time is not null

),
{% if is_incremental_build() %}
earlier_maximum as (

    select _topic, _partition, newest_time
    from {{ seen_totals(
        ref('card_transactions'),
        key=['_topic', '_partition'],
        columns={'_topic': '_topic', '_partition': '_partition', 'newest_time': 'trans_date_trans_time'},
        totals={'newest_time': 'max(newest_time)'},
        where='is_time_excluded is not true',
    ) }}

),
{% endif %}
newest_before as (

    select
        arrivals.*,
        max(trans_date_trans_time) over (
            -- a topic created anew starts its offsets again
            partition by _topic, _partition order by {{ ingestion_order() }}, _offset
            rows between unbounded preceding and 1 preceding
        ) as newest_time
    from arrivals

),

watermarked as (

    select
        newest_before.trans_num,
        newest_before.user_id,
        newest_before.trans_date_trans_time,
        newest_before.amt,
        newest_before._topic,
        newest_before._partition,
        newest_before._offset,
        newest_before._timestamp,
        newest_before._ingested_at,
        {%- if is_incremental_build() %}
        greatest(newest_before.newest_time, earlier_maximum.newest_time)
        {%- else %}
        newest_before.newest_time
        {%- endif %} - interval {{ setting('allowed_lateness_seconds') }} seconds as watermark
    from newest_before
    {%- if is_incremental_build() %}
    left join earlier_maximum
        on newest_before._topic = earlier_maximum._topic and newest_before._partition = earlier_maximum._partition
    {%- endif %}

),

windowed as (

    select * from {{ tumble('watermarked', 'trans_date_trans_time', window_seconds) }}

),

late as (

    select
        trans_num,
        user_id,
        trans_date_trans_time,
        amt,
        window_start,
        window_end,
        watermark,
        {{ seconds_between('trans_date_trans_time', 'watermark') }} as seconds_late,
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
