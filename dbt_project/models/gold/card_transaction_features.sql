{{ config(strategy='append', tags=['hot']) }}

{{ event_features('card_payments', ref('card_transactions')) }}
