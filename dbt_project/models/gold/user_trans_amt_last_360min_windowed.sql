{{ config(strategy='merge', unique_key=['window_start', 'user_id'], tags=['replica']) }}

{{ newest_windows('user_trans_amt_last_360min_windowed', ref('user_trans_amt_last_360min_windowed_versions')) }}
