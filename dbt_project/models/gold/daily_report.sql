{{ config(strategy='overwrite', tags=['replica']) }}

with features as (

    {% for stream in payment_streams().values() %}
    select cast(source_committed_at as date) as day from {{ ref(stream.features) }}
    {{ 'union all' if not loop.last }}
    {%- endfor %}

),

alerts as (

    select cast(source_committed_at as date) as day, rule, amount from {{ ref('alerts') }}

),

rules as (

    select distinct rule from alerts

),

transactions_by_day as (

    select day, count(*) as transactions
    from features
    where day is not null
    group by day

),

alerts_by_day as (

    select day, rule, count(*) as alerts, sum(case when {{ is_plausible('amount') }} then amount end) as alerted_amount
    from alerts
    group by day, rule

),

report as (

    select
        transactions_by_day.day,
        rules.rule,
        transactions_by_day.transactions,
        coalesce(alerts_by_day.alerts, 0) as alerts,
        coalesce(alerts_by_day.alerted_amount, 0) as alerted_amount
    from transactions_by_day
    cross join rules
    left join alerts_by_day
        on transactions_by_day.day = alerts_by_day.day and rules.rule = alerts_by_day.rule

),

with_rate as (

    select
        report.*,
        case when transactions > 0 then cast(alerts as double) / transactions end as alert_rate
    from report

)

select * from with_rate
