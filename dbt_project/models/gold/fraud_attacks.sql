{{ config(enabled=has_accounts(), strategy='overwrite', tags=['replica']) }}

{#- Ten minutes that overlap are one attack. Each payment of their union counts once. -#}
with {{ flagged_payments() }},

{{ customers() }},

followed as (

    select
        flagged.account_id,
        flagged.received_at,
        lag(flagged.received_at) over (partition by flagged.account_id order by flagged.received_at, flagged.id) as flagged_before
    from flagged

),

numbered as (

    select
        account_id,
        received_at,
        sum(case when received_at - interval 10 minutes <= flagged_before then 0 else 1 end) over (
            partition by account_id order by received_at rows between unbounded preceding and current row
        ) as attack_number
    from followed

),

ranges as (

    select
        account_id,
        attack_number,
        min(received_at) as detected_at,
        min(received_at) - interval 10 minutes as begins_at,
        max(received_at) as ended_at
    from numbered
    group by account_id, attack_number

),

attacks as (

    select
        ranges.account_id,
        cast(ranges.attack_number as bigint) as attack_number,
        customers.user_name,
        customers.email,
        sum(payments.amount) as total_amount,
        count(*) as transaction_count,
        min(payments.received_at) as occurred_at,
        ranges.detected_at,
        ranges.ended_at
    from ranges
    inner join payments
        on ranges.account_id = payments.account_id
        and payments.received_at between ranges.begins_at and ranges.ended_at
    left join customers on ranges.account_id = customers.account_id
    group by
        ranges.account_id, ranges.attack_number, customers.user_name, customers.email, ranges.detected_at, ranges.ended_at

)

select * from attacks
