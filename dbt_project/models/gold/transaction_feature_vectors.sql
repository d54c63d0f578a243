{{ config(strategy='append', tags=['features']) }}
{{ change_vectors('bank_payments', ref('transactions_ledger')) }}
