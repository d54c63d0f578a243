{#- The newest version of each row of `wanted` (a relation with the id), from a relation of versions. -#}
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

{#- From new rows of a table of versions (the CTE `versions`), the input of a merge by `key`: the newest of each key,
    with _is_new; with `deletions` (a column is_deleted) also _delete. Corrections are few: all other keys only have
    version 1. `opens`: a version 1 may be is_deleted. -#}
{% macro merge_of_versions(versions, key, columns, deletions=false, opens=false) -%}
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
{%- endmacro %}

{#- Whether two relations differ in some of these features. -#}
{% macro features_differ(features, computed, stored) -%}
    (
        {%- for feature in features %}
        {{ computed }}.{{ feature.name }} is distinct from {{ stored }}.{{ feature.name }}{{ ' or' if not loop.last }}
        {%- endfor %}
    )
{%- endmacro %}
