{{ config(enabled=has_transfers(), strategy='overwrite', tags=['replica']) }}

with results as (

    select * from {{ ref('fraudulent_transactions_result') }}

),

users as (

    select id, name, address, email from {{ ref('fraud_users') }}

),

report as (

    select
        results.transaction_id as "TRANSACTION_ID",
        results.sender_bank_account as "SENDER_BANK_ACCOUNT",
        results.receiver_bank_account as "RECEIVER_BANK_ACCOUNT",
        results.amount as "AMOUNT",
        results.status as "STATUS",
        results.evaluation as "EVALUATION",
        results.transfer_date as "TRANSFER_DATE",
        results.sender_bank as "SENDER_BANK",
        results.source_process as "SOURCE_PROCESS",
        senders.name as "SENDER_NAME",
        senders.address as "SENDER_ADDRESS",
        senders.email as "SENDER_EMAIL",
        receivers.name as "RECEIVER_NAME",
        receivers.address as "RECEIVER_ADDRESS",
        receivers.email as "RECEIVER_EMAIL"
    from results
    left join users as senders on results.sender_id = senders.id
    left join users as receivers on results.receiver_id = receivers.id

)

select * from report
