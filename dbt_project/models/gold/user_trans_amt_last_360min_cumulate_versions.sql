{{ config(strategy='append', tags=['features']) }}

{{ window_versions('user_trans_amt_last_360min_cumulate', ref('card_transactions'), ref('card_transactions_late')) }}
