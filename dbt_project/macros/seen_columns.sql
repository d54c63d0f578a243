{#- What mirrors keep of card payments. Models that ask for the same columns share one mirror. -#}

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

{#- An amount that sums up exactly, in whatever order: a float as a decimal; null where it is no amount of money. -#}
{% macro exact_amount(amount) -%}
    case when {{ is_plausible(amount, largest_exact_amount()) }} then cast({{ amount }} as decimal(38, 9)) end
{%- endmacro %}
