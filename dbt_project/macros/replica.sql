{#- The current rows of a captured table, one to one: exactly its columns, without deleted rows.
    Args: relation: the bronze table; key: its key columns; present: the source's current columns, in order.
    An incremental build reads only the keys of new events: their stored row represents all earlier events. If stored
    rows are ambiguous (keys_alike), all events are read again.
    Rows to be removed from the target have `_delete`. -#}
{% macro replica(relation, key, present=none) %}
{%- set columns = source_columns(relation, present) -%}
{%- set incremental = is_incremental_replay(relation, columns, columns, exactly=true) -%}
{%- set new_events = new_changes(relation) -%}
{%- if incremental and full_when(keys_alike(relation, key, new_events)) -%}
    {%- set incremental = false -%}
    {%- set new_events = new_changes(relation) -%}
{%- endif -%}
{%- set unsent = columns | reject('in', key) | list -%}
with recursive truncates as (

    select _lsn, _seq from {{ new_events }} as new_events where _op = 't'

),
{% if incremental %}
touched_keys as (

    select distinct {{ column_list(key, 'new_events') }}, {{ key_text(key, 'new_events') }} as _lake_key_text, true as _lake_is_touched
    from {{ new_events }} as new_events
    where _op <> 't'

),

stored_rows as (

    select
        {{ column_list(columns, 'stored') }},
        touched_keys._lake_key_text,
        row_number() over (order by {{ column_list(key, 'stored') }}) as _lake_number,
        row_number() over (partition by {{ column_list(key, 'stored') }} order by touched_keys._lake_key_text) as _lake_alike
    from {{ this }} as stored
    left join touched_keys on {{ same_columns(key, 'stored', 'touched_keys') }}
    where touched_keys._lake_is_touched or exists (select 1 from truncates)

),
{% endif %}
events as (

    select
        {{ column_list(key, 'new_events') }},
        _op, _lsn, _seq, _unchanged, {{ key_text(key, 'new_events') }} as _lake_key_text
    from {{ new_events }} as new_events
    where _op <> 't'
    {%- if incremental %}

    union all

    select
        {{ column_list(key, 'stored_rows') }},
        'r' as _op, -1 as _lsn, _lake_number as _seq, null as _unchanged, _lake_key_text
    from stored_rows
    {%- endif %}

),

{% if unsent -%}
sent_values as (

    {{ replica_values(new_events, unsent, incremental) }}

),

{{ resolve_unchanged(unsent, key) }},

{% endif -%}
resolved as (

    {{ resolved_rows(columns, unsent, replica_values(new_events, columns, incremental)) }}

),

last_truncate as (

    select _lsn, _seq from truncates order by _lsn desc, _seq desc limit 1

),

last_events as (

    select
        {{ key_columns(key, 'events') }}, events._op, events._lsn, events._seq,
        row_number() over (partition by {{ key_columns(key, 'events') }} order by _lsn desc, _seq desc) as _lake_recency
    from events

),

current_events as (

    select {{ key_columns(key, 'last_events') }}, last_events._lsn, last_events._seq
    from last_events
    left join last_truncate on true
    where last_events._lake_recency = 1
        and last_events._op <> 'd'
        and (last_truncate._lsn is null or {{ is_before('last_truncate', 'last_events') }})

),

current_rows as (

    select {{ column_list(columns, 'resolved') }}
    from resolved
    inner join current_events on resolved._lsn = current_events._lsn and resolved._seq = current_events._seq

){% if incremental %},

changes as (

    select {{ column_list(columns, 'current_rows') }}, false as _delete
    from current_rows

    union all

    select {{ column_list(columns, 'stored_rows') }}, true as _delete
    from stored_rows
    where _lake_alike = 1 -- one row takes away all with its key columns
        and not exists (select 1 from current_events where {{ same_key(key, 'stored_rows', 'current_events') }})

)

select * from changes
{%- else %}

select {{ column_list(columns, 'current_rows') }} from current_rows
{%- endif %}
{% endmacro %}

{#- Some columns of the events that have a row, by position. -#}
{% macro replica_values(new_events, columns, incremental) -%}
    select {{ column_list(columns, 'new_events') }}, _lsn, _seq, _text
    from {{ new_events }} as new_events
    where _op not in ('d', 't')
    {%- if incremental %}

    union all

    select {{ column_list(columns, 'stored_rows') }}, -1 as _lsn, _lake_number as _seq, null as _text
    from stored_rows
    {%- endif %}
{%- endmacro %}
