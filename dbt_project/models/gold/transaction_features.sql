{{ config(strategy='append', tags=['hot']) }}
{{ change_features('bank_payments', source('bronze', 'users')) }}
