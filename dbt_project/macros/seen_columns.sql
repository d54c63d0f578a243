{#- An amount that sums up exactly, in whatever order: a float as a decimal; null where it is no amount of money. -#}
{% macro exact_amount(amount) -%}
    case when {{ is_plausible(amount, largest_exact_amount()) }} then cast({{ amount }} as decimal(38, 9)) end
{%- endmacro %}
