{{ config(strategy='append', tags=['features']) }}

{{ window_versions('user_trans_amt_last_360min_hop', ref('card_transactions'), ref('card_transactions_late')) }}
