{{ config(strategy='merge', unique_key=['transaction_id'], tags=['replica']) }}
{{ replica(source('bronze', 'transactions'), ['transaction_id']) }}
