{#- The order in which records were ingested, for an ORDER BY: by the number of their commit to bronze, independently of
    clocks. Records older than commit numbers count as 0 and come first, by ingestion time. Within a commit, the
    source's positions decide, which the caller adds. `number`: SQL of that number. -#}
{% macro ingestion_order(number='_bronze_commit', relation=none) -%}
    {%- set of = relation ~ '.' if relation else '' -%}
    {{ number }}, case when {{ number }} = 0 then {{ of }}_ingested_at end
{%- endmacro %}

{#- That number for a row of silver/card_transactions. Rows written by version 0.1 have it in `_commit`, which is now
    the number of the table's own commit. -#}
{% macro bronze_commit() -%}
    coalesce(_bronze_commit, _commit, 0)
{%- endmacro %}
