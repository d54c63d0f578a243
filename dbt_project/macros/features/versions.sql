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

{#- Of new rows of a table of versions (the CTE `versions`) what a merge by `key` needs: the newest of each key, with
    _is_new; with `deletions` (a column is_deleted) also _delete. `corrects`: whether some may be corrections, which are
    few; of all others theirs is the only version. `opens`: with a version 1 that is_deleted, too. -#}
{% macro merge_of_versions(versions, key, columns, corrects, deletions=false, opens=false) -%}
    {%- set is_corrected -%}
        exists (
            select 1 from {{ versions }} as corrected
            where corrected.version > 1 and {{ same_in(key, 'corrected', 'versions') }}
        )
    {%- endset -%}
    select
        {{ columns | join(', ') }},
        true as _is_new
        {%- if deletions %},
        false as _delete
        {%- endif %}
    from {{ versions }} as versions
    {%- if corrects %}
    where not {{ is_corrected }}
        {%- if opens %}
        and not versions.is_deleted
        {%- endif %}

    union all

    select
        {{ columns | join(', ') }},
        first_version = 1 as _is_new
        {%- if deletions %},
        is_deleted as _delete
        {%- endif %}
    from (
        select
            versions.*,
            row_number() over (partition by {{ key | join(', ') }} order by version desc) as recency,
            min(version) over (partition by {{ key | join(', ') }}) as first_version
        from {{ versions }} as versions
        where {{ is_corrected }}
    ) as ranked
    where recency = 1
        {%- if deletions %}
        and not (first_version = 1 and is_deleted)
        {%- endif %}
    {%- endif %}
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

{#- A query's one row, while the model is compiled: literals prune files where a join cannot. A build done again without
    dbt asks again, and is given up where the answer is another. None in a unit test. -#}
{% macro one_row(query) %}
    {%- if not execute or lake_is_unit_test() -%}
        {{ return(none) }}
    {%- endif -%}
    {{ return(lake_call('look', {'node': model.unique_id, 'query': query})) }}
{% endmacro %}

{#- Whether a relation has rows (that fulfil a condition), while the model is compiled; true in a unit test. -#}
{% macro has_rows(relation, where='true') %}
    {%- set found = one_row('select exists (select 1 from ' ~ relation ~ ' where ' ~ where ~ ')') -%}
    {{ return(true if found is none else found[0]) }}
{% endmacro %}

{#- Names of the columns a table has; none in a unit test. -#}
{% macro stored_columns_of(relation) %}
    {%- if not execute or lake_is_unit_test() -%}
        {{ return(none) }}
    {%- endif -%}
    {{ return(adapter.get_columns_in_relation(relation) | map(attribute='name') | list) }}
{% endmacro %}
