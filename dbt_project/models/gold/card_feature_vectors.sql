{{ config(strategy='append', tags=['features']) }}

{{ event_vectors('card_payments', ref('card_transactions'), ref('card_transactions_late')) }}
