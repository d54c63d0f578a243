{#- Every version of every row of a captured table, with the times of the commits that opened and closed it. Args:
    relation: the bronze table; key: its key columns; present: all columns of a topic's table.
    Adds valid_from, valid_to (null: current), is_deleted (the version ended by a delete or truncate) and the position
    _lsn, _seq of the event that opened it; key + _lsn + _seq is unique. `_text` is as in bronze, by the source's names:
    the texts of values that their columns cannot represent.
    A source column with one of these names becomes source_<name>. Dropped columns stay, since older versions have them.
    An incremental build reads only the keys of new events and their open versions. -#}
{% macro history(relation, key, present=none) %}
{%- set columns = source_columns(relation, present) -%}
{%- set stored_as = history_names(columns) -%}
{%- set incremental = is_incremental_replay(relation, columns + ['_text'], stored_as + ['_text']) -%}
{%- set new_events = new_changes(relation) -%}
{%- set unsent = columns | reject('in', key) | list -%}
with recursive truncates as (

    select
        _lsn, _seq, _committed_at,
        coalesce(lag(_lsn) over (order by _lsn, _seq), -1) as after_lsn,
        coalesce(lag(_seq) over (order by _lsn, _seq), -1) as after_seq
    from {{ new_events }} as new_events
    where _op = 't'

),
{% if incremental %}
touched_keys as (

    select distinct {{ column_list(key, 'new_events') }}, {{ key_text(key, 'new_events') }} as _lake_key_text
    from {{ new_events }} as new_events
    where _op <> 't'

),

stored_versions as (

    select
        {{ renamed_list(stored_as, columns, 'stored') }},
        stored._lsn, stored._seq, stored.valid_from as _lake_valid_from, stored._text
    from {{ this }} as stored
    where stored.valid_to is null

),

keyed_versions as (

    select stored_versions.*, {{ key_text(key, 'stored_versions') }} as _lake_key_text
    from stored_versions

),

open_versions as (

    select *
    from keyed_versions
    where exists (select 1 from touched_keys where {{ same_key(key, 'keyed_versions', 'touched_keys') }})
        or exists (select 1 from truncates)

),
{% endif %}
events as (

    select
        {{ column_list(key, 'new_events') }},
        _op, _lsn, _seq, _committed_at, _unchanged, {{ key_text(key, 'new_events') }} as _lake_key_text
    from {{ new_events }} as new_events
    where _op <> 't'
    {%- if incremental %}

    union all

    select
        {{ column_list(key, 'open_versions') }},
        'r' as _op, _lsn, _seq, _lake_valid_from as _committed_at, null as _unchanged, _lake_key_text
    from open_versions
    {%- endif %}

),

{% if unsent -%}
sent_values as (

    {{ history_values(new_events, unsent, incremental) }}

),

{{ resolve_unchanged(unsent, key) }},

{% endif -%}
resolved as (

    {{ resolved_rows(columns, unsent, history_values(new_events, columns, incremental)) }}

),

followed as (

    select
        events.*,
        lead(_op) over (partition by {{ key_columns(key, 'events') }} order by _lsn, _seq) as _lake_next_op,
        lead(_lsn) over (partition by {{ key_columns(key, 'events') }} order by _lsn, _seq) as _lake_next_lsn,
        lead(_seq) over (partition by {{ key_columns(key, 'events') }} order by _lsn, _seq) as _lake_next_seq,
        lead(_committed_at) over (partition by {{ key_columns(key, 'events') }} order by _lsn, _seq) as _lake_next_at
    from events

),

closed as (

    select
        followed._lsn, followed._seq, followed._committed_at, followed._lake_next_op, followed._lake_next_at,
        case
            when truncates._lsn is null then false
            when followed._lake_next_lsn is null then true
            else truncates._lsn < followed._lake_next_lsn
                or (truncates._lsn = followed._lake_next_lsn and truncates._seq < followed._lake_next_seq)
        end as _lake_is_truncated,
        truncates._committed_at as _lake_truncated_at
    from followed
    left join truncates
        on {{ is_before('followed', 'truncates') }}
        and (
            followed._lsn > truncates.after_lsn
            or (followed._lsn = truncates.after_lsn and followed._seq > truncates.after_seq)
        )
    where followed._op <> 'd'

),

versions as (

    select
        {{ renamed_list(columns, stored_as, 'resolved') }},
        closed._committed_at as valid_from,
        case when closed._lake_is_truncated then closed._lake_truncated_at else closed._lake_next_at end as valid_to,
        closed._lake_is_truncated or coalesce(closed._lake_next_op = 'd', false) as is_deleted,
        closed._lsn,
        closed._seq,
        resolved._text
    from resolved
    inner join closed on resolved._lsn = closed._lsn and resolved._seq = closed._seq

)

select * from versions
{% endmacro %}

{#- Some columns of the events that have a row, by position. -#}
{% macro history_values(new_events, columns, incremental) -%}
    select {{ column_list(columns, 'new_events') }}, _lsn, _seq, _text
    from {{ new_events }} as new_events
    where _op not in ('d', 't')
    {%- if incremental %}

    union all

    select {{ column_list(columns, 'open_versions') }}, _lsn, _seq, _text
    from open_versions
    {%- endif %}
{%- endmacro %}

{#- The names of a source's columns in the history. -#}
{% macro history_names(columns) %}
    {%- set names = [] -%}
    {%- for name in columns -%}
        {%- do names.append('source_' ~ name if name | lower in ('valid_from', 'valid_to', 'is_deleted') else name) -%}
    {%- endfor -%}
    {{ return(names) }}
{% endmacro %}
