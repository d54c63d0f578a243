{{ config(enabled=has_accounts(), strategy='overwrite', tags=['replica']) }}

with attacks as (

    select * from {{ ref('fraud_attacks') }}

),

overview as (

    select
        account_id,
        user_name,
        email,
        cast(sum(total_amount) as decimal(38, 2)) as total_amount,
        cast(sum(transaction_count) as bigint) as transaction_count,
        count(*) as attack_count,
        max(ended_at) as last_attack_at
    from attacks
    group by account_id, user_name, email

)

select * from overview
