{{ config(strategy='overwrite', tags=['replica']) }}

with alerts as (

    select
        cast(fired_at as date) as day,
        stream,
        rule,
        1e3 * {{ seconds_between('source_committed_at', 'fired_at') }} as milliseconds
    from {{ ref('alerts') }}
    where source_committed_at is not null

),

percentiles as (

    select
        day,
        stream,
        rule,
        count(*) as alerts,
        {{ percentile('milliseconds', 0.5) }} as p50_ms,
        {{ percentile('milliseconds', 0.95) }} as p95_ms,
        {{ percentile('milliseconds', 0.99) }} as p99_ms,
        max(milliseconds) as longest_ms
    from alerts
    group by day, stream, rule

)

select * from percentiles
