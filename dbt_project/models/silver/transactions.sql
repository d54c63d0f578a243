{{ config(strategy='merge', unique_key=['transaction_id'], tags=['replica'], source_types=true, alias=var('transactions_table')) }}
{{ replica(source('bronze', 'transactions'), ['transaction_id'], setting('transactions_columns')) }}
