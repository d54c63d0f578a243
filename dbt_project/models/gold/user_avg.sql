{{ config(strategy='overwrite', tags=['replica'], source_types=true) }}

with transactions as (

    select user_id, amount from {{ ref('transactions') }} where user_id is not null

),

averages as (

    select
        user_id,
        -- exact even if the mean of decimals is a decimal
        {{ sum_as_double('amount', ref('transactions')) }} / nullif(count(amount), 0) as avg_amount,
        count(*) as transaction_count
    from transactions
    group by user_id

)

select * from averages
