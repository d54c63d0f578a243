{#- The order in which records were ingested, for an ORDER BY: by commit, which no clock has a part in. Records older than
    commit numbers have none; they come first, by the time of their ingestion. Within a commit the source's positions
    decide, which the caller adds. -#}
{% macro ingestion_order(relation=none) -%}
    {%- set of = relation ~ '.' if relation else '' -%}
    coalesce({{ of }}_commit, 0), case when {{ of }}_commit is null then {{ of }}_ingested_at end
{%- endmacro %}
