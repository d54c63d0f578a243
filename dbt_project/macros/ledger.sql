{#- Used by transaction_features: whether the user's ledger entry `back` places before lies in the 10 minutes up to
    this transaction's date. -#}
{% macro in_last_10min(back) -%}
    user_id is not null
    and date_{{ back }} <= transaction_date
    and date_{{ back }} >= transaction_date - interval 10 minutes
{%- endmacro %}
