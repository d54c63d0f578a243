{{ config(strategy='merge', unique_key=['window_start', 'user_id'], tags=['replica']) }}

{{ newest_windows('user_trans_amt_last_360min_hop', ref('user_trans_amt_last_360min_hop_versions')) }}
