{{ config(enabled=has_transfers(), strategy='overwrite', tags=['replica']) }}

with transfers as (

    select transaction_id, evaluation, amount, transfer_date from {{ ref('bank_transfers') }}

),

judgements as (

    select transaction_id, outcome, is_fraudulent from {{ source('validator', 'transfer_judgements') }}

),

routed as (

    select
        cast(transfers.transfer_date as date) as day,
        transfers.evaluation,
        case
            when transfers.evaluation = 'fraudulent' then 'rule'
            when coalesce(transfers.evaluation, '') <> 'unidentified' then 'other'
            when judgements.transaction_id is null then 'pending'
            when judgements.outcome = 'refused' then 'refused'
            when judgements.is_fraudulent then 'validator'
            else 'cleared'
        end as route,
        transfers.amount
    from transfers
    left join judgements on transfers.transaction_id = judgements.transaction_id

),

routes as (

    select
        day, evaluation, route,
        count(*) as transfers,
        cast(sum(amount) as double) as amount
    from routed
    group by day, evaluation, route

)

select * from routes
