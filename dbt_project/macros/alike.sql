{#- Whether two relations agree on these columns, nulls included. -#}
{% macro same_in(columns, one, other) -%}
    {%- for column in columns -%}
        {{ ' and ' if not loop.first }}{{ one }}.{{ column }} is not distinct from {{ other }}.{{ column }}
    {%- endfor -%}
{%- endmacro %}

{#- Whether two relations agree on these columns, none of which is null. -#}
{% macro equal_in(columns, one, other) -%}
    {%- for column in columns -%}
        {{ ' and ' if not loop.first }}{{ one }}.{{ column }} = {{ other }}.{{ column }}
    {%- endfor -%}
{%- endmacro %}
