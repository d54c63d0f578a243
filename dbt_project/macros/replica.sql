{#- The current rows of a captured table, one to one: exactly its columns, deletes gone.
    Args: relation: the bronze table; key: its key columns; present: the columns the source has, in its order.
    An incremental build looks only at the keys of new events: their stored row stands for all earlier events.
    Rows to be removed from the target have `_delete`. -#}
{% macro replica(relation, key, present=none) %}
{%- set columns = source_columns(relation, present) -%}
{%- set incremental = is_incremental_replay(relation, columns, columns, exactly=true) -%}
with recursive new_events as (

    select * from {{ new_rows(relation) }}

),

truncates as (

    select _lsn, _seq from new_events where _op = 't'

),
{% if incremental %}
touched_keys as (

    select distinct {{ column_list(key, 'new_events') }} from new_events where _op <> 't'

),

stored_rows as (

    select
        {{ column_list(columns, 'stored') }},
        row_number() over (order by {{ column_list(key, 'stored') }}) as _lake_number
    from {{ this }} as stored
    where exists (select 1 from touched_keys where {{ same_key(key, 'stored', 'touched_keys') }})
        or exists (select 1 from truncates)

),
{% endif %}
events as (

    select {{ column_list(columns, 'new_events') }}, _op, _lsn, _seq, _committed_at, _unchanged
    from new_events
    where _op <> 't'
    {%- if incremental %}

    union all

    select
        {{ column_list(columns, 'stored_rows') }},
        'r' as _op, -1 as _lsn, _lake_number as _seq, null as _committed_at, null as _unchanged
    from stored_rows
    {%- endif %}

),

{{ resolve_unchanged(columns, key) }},

last_truncate as (

    select _lsn, _seq from truncates order by _lsn desc, _seq desc limit 1

),

last_events as (

    select
        resolved.*,
        row_number() over (partition by {{ column_list(key, 'resolved') }} order by _lsn desc, _seq desc) as _lake_recency
    from resolved

),

current_rows as (

    select {{ column_list(columns, 'last_events') }}
    from last_events
    left join last_truncate on true
    where last_events._lake_recency = 1
        and last_events._op <> 'd'
        and (last_truncate._lsn is null or {{ is_before('last_truncate', 'last_events') }})

){% if incremental %},

changes as (

    select {{ column_list(columns, 'current_rows') }}, false as _delete
    from current_rows

    union all

    select {{ column_list(columns, 'stored_rows') }}, true as _delete
    from stored_rows
    where not exists (select 1 from current_rows where {{ same_key(key, 'stored_rows', 'current_rows') }})

)

select * from changes
{%- else %}

select * from current_rows
{%- endif %}
{% endmacro %}
