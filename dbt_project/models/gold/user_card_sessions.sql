{{ config(strategy='merge', unique_key=['window_start', 'user_id'], tags=['replica']) }}

{{ newest_windows('user_card_sessions', ref('user_card_sessions_versions')) }}
