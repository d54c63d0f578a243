{{ config(strategy='append', tags=['hot']) }}
{{ change_features('bank_payments', ref('transactions_ledger'), source('bronze', 'users')) }}
