{#- The stretches of 10 minutes in which transaction_features looks for earlier entries of a user: that of each new entry
    and the one before. `entries`: ledger rows. -#}
{% macro needed_tens(entries) -%}
    select distinct
        entries.user_id,
        {{ window_floor('entries.transaction_date', 600) }} - back.step * interval 600 seconds as ten
    from {{ entries }} as entries
    cross join {{ numbers(0, 1) }} as back
    where entries.user_id is not null and entries.transaction_date is not null and entries.weight = 1
{%- endmacro %}
