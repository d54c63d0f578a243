{#- The newest version of each row of `wanted` (a relation with the id), of a relation of versions. -#}
{% macro newest_versions_of(relation, id, wanted) -%}
    (
        select versions.* {{ without(['_newest']) }}
        from (
            select
                stored.*,
                row_number() over (partition by stored.{{ id }} order by stored.version desc) as _newest
            from {{ relation }} as stored
            where stored.{{ id }} in (select {{ id }} from {{ wanted }})
        ) as versions
        where versions._newest = 1
    )
{%- endmacro %}

{#- Whether two relations differ in some of these features; a feature that `stored` has no column for is null there. -#}
{% macro features_differ(features, computed, stored, stored_columns=none) -%}
    (
        {%- for feature in features %}
        {{ computed }}.{{ feature.name }} is distinct from
        {%- if stored_columns is none or feature.name in stored_columns %} {{ stored }}.{{ feature.name }}
        {%- else %} null
        {%- endif %}
        {{- ' or' if not loop.last }}
        {%- endfor %}
    )
{%- endmacro %}

{#- A query's one row, while the model is compiled: literals prune files where a join cannot. None in a unit test. -#}
{% macro one_row(query) %}
    {%- if not execute or lake_is_unit_test() -%}
        {{ return(none) }}
    {%- endif -%}
    {{ return(run_query(query).rows[0]) }}
{% endmacro %}

{#- Names of the columns a table has; none in a unit test. -#}
{% macro stored_columns_of(relation) %}
    {%- if not execute or lake_is_unit_test() -%}
        {{ return(none) }}
    {%- endif -%}
    {{ return(adapter.get_columns_in_relation(relation) | map(attribute='name') | list) }}
{% endmacro %}
