{{ config(strategy='append', tags=['features']) }}
{{ change_vectors('bank_payments') }}
