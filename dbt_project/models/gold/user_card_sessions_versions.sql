{{ config(strategy='append', tags=['features']) }}

{{ session_versions('user_card_sessions', ref('card_transactions'), ref('card_transactions_late')) }}
