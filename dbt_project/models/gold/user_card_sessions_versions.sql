{{ config(strategy='append', tags=['hot']) }}

{{ session_versions('user_card_sessions', ref('card_transactions'), ref('card_transactions_late')) }}
