{#- The order in which records were ingested, for an ORDER BY: by the number of their commit to bronze, which no clock has a
    part in. Records older than commit numbers count as 0; they come first, by the time of their ingestion. Within a commit
    the source's positions decide, which the caller adds. `number`: SQL of that number. -#}
{% macro ingestion_order(number='_bronze_commit', relation=none) -%}
    {%- set of = relation ~ '.' if relation else '' -%}
    {{ number }}, case when {{ number }} = 0 then {{ of }}_ingested_at end
{%- endmacro %}

{#- That number of a row of silver/card_transactions. Rows that version 0.1 wrote have it in `_commit`, which is now the
    number of the table's own commit. -#}
{% macro bronze_commit() -%}
    coalesce(_bronze_commit, _commit, 0)
{%- endmacro %}
