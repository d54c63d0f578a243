{{ config(strategy='append', tags=['hot']) }}

{{ window_versions(
    'user_trans_amt_last_360min_windowed', ref('card_transactions'), ref('card_transactions_late'), in_memory=true
) }}
