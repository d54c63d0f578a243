{#- What mirrors keep of silver/transactions_ledger. Models that ask for the same columns share one mirror. -#}
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
