{{ config(strategy='append', tags=['hot']) }}

{{ late_events('card_payments', ref('card_transactions')) }}
