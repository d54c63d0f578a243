{#- The model of a stream's events: readable records with typed fields, each payment once. `records`: the bronze table.
    The id is text, the time is UTC without a zone; null if it cannot be parsed.
    time: SQL of the event time, instead of parsing by the stream's time zone. derived: name -> SQL over the records,
    for use in `replaced`: name -> SQL of a column that replaces the field. In both, _event_time is the time. rates: the
    bronze table of rates, for a stream with amounts of several currencies (macros/rates.sql). -#}
{% macro event_rows(name, records, time=none, derived={}, replaced={}, rates=none) -%}
{%- set stream = stream_of(name) -%}
{%- if not execute -%}{{ return('') }}{%- endif -%}
{%- set position = "_topic || '/' || cast(_partition as string) || '/' || cast(_offset as string)" -%}
{%- set identity = 'coalesce(cast(' ~ stream.id ~ ' as string), ' ~ position ~ ')' -%}
{%- set event_time = time or utc_time(stream.time, stream.fields[stream.time], stream.timezone) -%}
{%- set new_records = new_rows(records) -%}
{%- set untyped = 'derived' if derived else 'first_arrivals' -%}
{%- set amount = '_converted_amount' if stream.rates else stream.amount -%}

with records as (

    select * from {{ new_records }} where _error is null

),

identified as (

    select
        records.*,
        coalesce(_commit, 0) as _bronze_commit, -- records older than commit numbers have none
        {{ identity }} as _identity
    from records

),

repeated as (

    select _identity
    from identified
    group by _identity
    having count(*) > 1

),

arrivals as (

    select
        identified._topic, identified._partition, identified._offset, identified._bronze_commit, identified._ingested_at,
        row_number() over (
            partition by identified._identity
            order by {{ ingestion_order('identified._bronze_commit', 'identified') }}, identified._topic, identified._partition, identified._offset
        ) as _arrival
    from identified
    inner join repeated on identified._identity = repeated._identity

),

repeats as (

    select _topic, _partition, _offset, _bronze_commit, _ingested_at from arrivals where _arrival > 1

),
{% if is_incremental_build() %}
known as (

    select stored.{{ stream.id }}
    from {{ seen_by_key(
        this,
        event_columns(stream),
        [stream.id],
        'select ' ~ identity ~ ' from ' ~ new_records ~ ' where _error is null',
    ) }} as stored
    where stored.{{ stream.id }} in (select _identity from identified)

),
{% endif %}
first_arrivals as (

    select identified.*, {{ event_time }} as _event_time
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
    and not exists (select 1 from known where known.{{ stream.id }} = identified._identity)
    {%- endif %}

),
{% if derived %}
derived as (

    select
        first_arrivals.*
        {%- for column, expression in derived.items() %},
        {{ expression }} as {{ column }}
        {%- endfor %}
    from first_arrivals

),
{% endif %}
{%- if stream.rates %}
coded as (

    select {{ untyped }}.*, {{ currency_code(stream.rates.code) }} as _currency_code from {{ untyped }}

),

{{ rates_at(stream.rates, rates, '(select _currency_code as currency, _event_time as moment from coded) as payments') }},

rated as (

    select coded.*, {{ rate_for(stream, 'coded._currency_code') }} as _rate
    from coded
    left join rate_of on coded._currency_code = rate_of.currency and coded._event_time = rate_of.moment

),

converted as (

    select rated.*, {{ converted_amount(stream.amount, '_rate') }} as _converted_amount from rated

),
{% endif %}
typed as (

    select
        _identity as {{ stream.id }},
        _event_time as {{ stream.time }},
        {%- for field in stream.fields if field not in [stream.id, stream.time] %}
        {{ amount if field == stream.amount and stream.rates else replaced.get(field, quoted(field)) }} as {{ quoted(field) }},
        {%- endfor %}
        {%- if stream.rates %}
        {{ stream.amount }} as {{ stream.amount }}_original,
        _rate,
        {%- endif %}
        {{ excludes_amount(amount, stream.amount ~ ' is not null', stream) }} as is_amount_excluded,
        {{ excludes_time('_event_time', '_event_time is not null', 'coalesce(_timestamp, _ingested_at)', stream) }}
        as is_time_excluded,
        _topic,
        _partition,
        _offset,
        _timestamp,
        _ingested_at,
        _bronze_commit
    from {{ 'converted' if stream.rates else untyped }}

)

select * from typed
{%- endmacro %}
