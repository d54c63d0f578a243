{{ config(strategy='merge', unique_key=['window_start', 'window_end', 'user_id'], tags=['replica']) }}

{{ newest_windows('user_trans_amt_last_360min_cumulate', ref('user_trans_amt_last_360min_cumulate_versions')) }}
