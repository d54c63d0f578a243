{{ config(strategy='merge', unique_key=['transaction_id', '_lsn', '_seq'], tags=['replica'], source_types=true, alias=var('transactions_table') ~ '_history') }}
{{ history(source('bronze', 'transactions'), ['transaction_id']) }}
