{{ config(enabled=has_transfers(), strategy='append', tags=['replica']) }}

with transfers as (

    select * from {{ new_rows(ref('bank_transfers')) }} where evaluation = 'fraudulent'

),

judgements as (

    select transaction_id from {{ new_rows(source('validator', 'transfer_judgements')) }} where is_fraudulent

),

judged as (

    select transfers.*
    from {{ ref('bank_transfers') }} as transfers
    inner join judgements on transfers.transaction_id = judgements.transaction_id

),

found as (

    select transfers.*, 'rule' as source_process from transfers
    union all
    select judged.*, 'validator' as source_process from judged

),

results as (

    select
        transaction_id, sender_bank_account, sender_id, receiver_bank_account, receiver_id,
        amount, status, evaluation, transfer_date, sender_bank, source_process
    from found

)

select * from results
