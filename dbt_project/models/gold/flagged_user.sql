{{ config(enabled=has_accounts(), strategy='overwrite', tags=['replica']) }}

with {{ flagged_payments() }},

{{ customers() }},

ranked as (

    select flagged.*, row_number() over (partition by account_id order by received_at desc, id desc) as recency
    from flagged

),

flagged_users as (

    select
        ranked.account_id,
        customers.user_name,
        customers.email,
        ranked.total_amount,
        ranked.transaction_count,
        ranked.received_at as updated_at
    from ranked
    left join customers on ranked.account_id = customers.account_id
    where ranked.recency = 1

)

select * from flagged_users
