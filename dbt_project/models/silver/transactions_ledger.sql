{{ config(strategy='append', tags=['hot']) }}
{{ change_ledger('bank_payments', source('bronze', 'transactions')) }}
