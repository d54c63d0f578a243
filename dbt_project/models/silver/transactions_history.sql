{{ config(strategy='merge', unique_key=['transaction_id', '_lsn', '_seq'], tags=['replica']) }}
{{ history(source('bronze', 'transactions'), ['transaction_id']) }}
