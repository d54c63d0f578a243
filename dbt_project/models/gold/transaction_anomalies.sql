{{ config(strategy='overwrite', tags=['replica'], source_types=true) }}

with transactions as (

    select transaction_id, user_id, amount, transaction_date from {{ ref('transactions') }}

),

users as (

    select user_id, name, email, registration_date from {{ ref('users') }}

),

averages as (

    select user_id, avg_amount from {{ ref('user_avg') }}

),

anomalies as (

    select
        transactions.transaction_id,
        transactions.user_id,
        transactions.amount,
        transactions.transaction_date,
        users.name,
        users.email,
        users.registration_date,
        coalesce(transactions.amount > 3 * averages.avg_amount, false) as is_anomaly,
        transactions.amount - averages.avg_amount as amount_diff
    from transactions
    inner join users on transactions.user_id = users.user_id
    inner join averages on transactions.user_id = averages.user_id

)

select * from anomalies
