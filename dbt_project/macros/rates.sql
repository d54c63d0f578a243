{#- Amounts of several currencies, converted into one by the dated rates that a stream declares (features/streams.py,
    Rates). A rate is valid from its time until the next one of its currency. Codes are compared ignoring case and
    surrounding blanks. -#}

{#- CTEs up to rate_of: `currency`, `moment` and the `rate` at that moment, as known now. No rows for a currency without
    a rate. `table`: the bronze table of the rates; `payments`: a relation with `currency` (a currency_code) and
    `moment`. -#}
{% macro rates_at(rates, table, payments) -%}
{{ captured_rates(rates, table) if rates.key else sent_rates(rates, table) }},

-- a rate that is not a positive number is kept, because it ends the validity of earlier rates
known_rates as (

    select currency, valid_from, case when rate > 0 and {{ is_finite('rate') }} then rate end as rate
    from dated_rates
    where is_newest and currency is not null and valid_from is not null

),

converted_at as (

    select distinct currency, moment from {{ payments }} where currency is not null and moment is not null

),

rate_timeline as (

    select
        currency, moment, kind,
        {{ last_known('valid_from', 'partition by currency order by moment, kind') }} as valid_from
    from (
        select currency, moment, cast(null as {{ zoneless() }}) as valid_from, 1 as kind from converted_at

        union all

        select currency, valid_from as moment, valid_from, 0 as kind
        from known_rates
        where currency in (select currency from converted_at)
    ) as rates_and_payments

),

rate_of as (

    select rate_timeline.currency, rate_timeline.moment, known_rates.rate
    from rate_timeline
    inner join known_rates
        on rate_timeline.currency = known_rates.currency and rate_timeline.valid_from = known_rates.valid_from
    where rate_timeline.kind = 1

)
{%- endmacro %}

{#- CTEs up to dated_rates, for a table in PostgreSQL: its current rows; of two with the same time, the newer. -#}
{% macro captured_rates(rates, table) -%}
{%- set columns = rate_columns(rates) -%}
{%- do columns.update({'_op': '_op', '_lsn': '_lsn', '_seq': '_seq'}) -%}
{%- set key = [] -%}
{%- for column in rates.key -%}
    {%- do key.append('key_' ~ loop.index) -%}
    {%- do columns.update({key[-1]: quoted(column)}) -%}
{%- endfor -%}
rate_events as (

    select
        events.*,
        lead(_op) over (partition by {{ key | join(', ') }} order by _lsn, _seq) is null as is_last
    from {{ seen_rows(table, columns, where=counting_changes(table), newest=true) }} as events

),

rates_truncated as (

    select _lsn, _seq from rate_events where _op = 't' order by _lsn desc, _seq desc limit 1

),

dated_rates as (

    select
        rate_events.currency, rate_events.valid_from, rate_events.rate,
        lead(1) over (
            partition by rate_events.currency, rate_events.valid_from order by rate_events._lsn, rate_events._seq
        ) is null as is_newest
    from rate_events
    left join rates_truncated on {{ is_before('rate_events', 'rates_truncated') }}
    where rate_events.is_last and rate_events._op not in ('d', 't') and rates_truncated._lsn is null

)
{%- endmacro %}

{#- The same for a topic: of two records with the same time, the later. -#}
{% macro sent_rates(rates, table) -%}
{%- set columns = rate_columns(rates) -%}
{%- for name in ['_ingested_at', '_topic', '_partition', '_offset'] -%}{%- do columns.update({name: name}) -%}{%- endfor -%}
{%- do columns.update({'_bronze_commit': 'coalesce(_commit, 0)'}) -%}
dated_rates as (

    select
        currency, valid_from, rate,
        lead(1) over (
            partition by currency, valid_from order by {{ ingestion_order() }}, _topic, _partition, _offset
        ) is null as is_newest
    from {{ seen_rows(table, columns, where='_error is null', newest=true) }} as records

)
{%- endmacro %}

{#- The columns of a rate. -#}
{% macro rate_columns(rates) %}
    {{ return({
        'currency': currency_code(quoted(rates.currency)),
        'valid_from': utc_time(quoted(rates.valid_from), rates.fields[rates.valid_from], 'UTC'),
        'rate': 'cast(' ~ quoted(rates.rate) ~ ' as double)',
    }) }}
{% endmacro %}

{#- A currency code, normalised for comparison. -#}
{% macro currency_code(column) %}{{ return('upper(trim(' ~ column ~ '))') }}{% endmacro %}

{#- The rate of a payment: 1 for the currency that amounts are converted into, else from its row in rate_of. -#}
{% macro rate_for(stream, currency) -%}
    case when {{ currency }} = {{ sql_text(stream.currency) }} then cast(1 as double) else rate_of.rate end
{%- endmacro %}

{#- An amount times its rate; null without a rate, or if it does not fit. -#}
{% macro converted_amount(amount, rate) -%}
    case
        when {{ rate }} = 1 then {{ try_cast(amount, 'decimal(38, 9)') }}
        else {{ try_cast('cast(' ~ amount ~ ' as double) * ' ~ rate, 'decimal(38, 9)') }}
    end
{%- endmacro %}
