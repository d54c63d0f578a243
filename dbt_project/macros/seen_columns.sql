{#- An amount whose sum is exact in any order: a float as a decimal; null if it does not fit. -#}
{% macro exact_amount(amount) -%}
    case when {{ is_plausible(amount, largest_exact_amount()) }} then cast({{ amount }} as decimal(38, 9)) end
{%- endmacro %}
