{{ config(strategy='append', tags=['hot']) }}

{%- set identity = "coalesce(trans_num, _topic || '/' || cast(_partition as string) || '/' || cast(_offset as string))" %}
{%- set new_records = new_rows(source('bronze', 'card_transactions')) %}

with records as (

    select * from {{ new_records }} where _error is null

),

identified as (

    select
        records.*,
        coalesce(_commit, 0) as _bronze_commit, -- records older than commit numbers have none
        {{ identity }} as identity
    from records

),

repeated as (

    select identity
    from identified
    group by identity
    having count(*) > 1

),

arrivals as (

    select
        identified._topic, identified._partition, identified._offset, identified._bronze_commit, identified._ingested_at,
        row_number() over (
            partition by identified.identity
            order by {{ ingestion_order('identified._bronze_commit', 'identified') }}, identified._topic, identified._partition, identified._offset
        ) as arrival
    from identified
    inner join repeated on identified.identity = repeated.identity

),

repeats as (

    select _topic, _partition, _offset, _bronze_commit, _ingested_at from arrivals where arrival > 1

),
{% if is_incremental_build() %}
known as (

    select stored.trans_num
    from {{ seen_by_key(
        this, payment_columns(), ['trans_num'], 'select ' ~ identity ~ ' from ' ~ new_records ~ ' where _error is null'
    ) }} as stored
    where stored.trans_num in (select identity from identified)

),
{% endif %}
first_arrivals as (

    select identified.*, {{ try_cast('identified.trans_date_trans_time', 'timestamp') }} as event_time
    from identified
    where not exists (
        select 1 from repeats
        where repeats._topic = identified._topic
            and repeats._partition = identified._partition
            and repeats._offset = identified._offset
            and repeats._bronze_commit = identified._bronze_commit
            and repeats._ingested_at is not distinct from identified._ingested_at
    )
    {%- if is_incremental_build() %}
    and not exists (select 1 from known where known.trans_num = identified.identity)
    {%- endif %}

),

dated as (

    select
        first_arrivals.*,
        {{ birth_date('dob', 'cast(coalesce(event_time, _timestamp) as date)') }} as birth_date
    from first_arrivals

),

typed as (

    select
        identity as trans_num,
        user_id,
        cc_num,
        event_time as trans_date_trans_time,
        amt,
        merchant,
        category,
        first,
        last,
        -- not every reader has dates of other years
        case when birth_date between date '0001-01-01' and date '9999-12-31' then birth_date end as dob,
        zipcode,
        is_fraud,
        {{ excludes_amount('amt', 'amt is not null') }} as is_amount_excluded,
        {{ excludes_time('event_time', 'event_time is not null', 'coalesce(_timestamp, _ingested_at)') }}
        as is_time_excluded,
        _topic,
        _partition,
        _offset,
        _timestamp,
        _ingested_at,
        _bronze_commit
    from dated

)

select * from typed
