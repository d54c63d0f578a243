{#- What mirrors keep of two tables. Models that ask for the same columns share one mirror. -#}

{#- Of silver/card_transactions. -#}
{% macro payment_columns() %}
    {{ return({
        'trans_num': 'trans_num',
        'user_id': 'user_id',
        'trans_date_trans_time': 'trans_date_trans_time',
        'amt': 'amt',
        'is_amount_excluded': 'is_amount_excluded',
        'is_time_excluded': 'is_time_excluded',
    }) }}
{% endmacro %}

{#- Of silver/transactions_ledger. -#}
{% macro entry_columns() %}
    {{ return({
        'transaction_id': 'transaction_id',
        'user_id': 'user_id',
        'amount': 'amount',
        'transaction_date': 'transaction_date',
        'weight': 'weight',
        'is_amount_excluded': 'is_amount_excluded',
        'is_time_excluded': 'is_time_excluded',
        'user_entry': 'user_entry',
        '_lsn': '_lsn',
        '_seq': '_seq',
    }) }}
{% endmacro %}

{#- An amount that sums up exactly, in whatever order: a float as a decimal; null where it is no amount of money. -#}
{% macro exact_amount(amount) -%}
    case when {{ is_plausible(amount, largest_exact_amount()) }} then cast({{ amount }} as decimal(38, 9)) end
{%- endmacro %}
