{#- The changes of a table that arrive as records of a topic, in the order of arrival, each marked whether it counts.

    A connector that starts again writes records a second time, and records of one key may come out of order. The
    position inside the record decides: one that is older than what its key, or the last truncate, has already had is
    stale, and so is one that repeats it. A record without a position (a tombstone) has that of the record of its key
    before it. All macros over changes read the log by `_lsn` and `_seq`, here the order of arrival: the number of the
    record's commit to bronze, and its place in that commit. `_source_lsn` and `_source_seq` are the source's.
    Args: records: the bronze table; key, columns: the source's columns. One row per readable record. -#}
{% macro change_log(records, key, columns) %}
{%- if not execute -%}{{ return('') }}{%- endif -%}
{%- set incremental = is_incremental_build() -%}
{%- set new = new_rows(records) -%}
{%- set keys = [] -%}
{%- for name in key -%}{%- do keys.append('key_' ~ loop.index) -%}{%- endfor -%}
{%- set keyed = keys | join(', ') -%}
with new_records as (

    select
        {{ column_list(columns, 'record') }},
        {%- for name in key %}
        record.{{ quoted(name) }} as key_{{ loop.index }},
        {%- endfor %}
        record._op,
        record._commit as _lsn,
        -- even numbers only: a key change, which the position of a PostgreSQL change shows, has consecutive ones
        2 * row_number() over (partition by record._commit order by record._partition, record._offset) as _seq,
        coalesce(record._committed_at, record._timestamp, record._ingested_at) as _committed_at,
        record._ingested_at,
        record._unchanged,
        record._lsn as _source_lsn,
        record._seq as _source_seq,
        {{ source_position('record._lsn', 'record._seq') }} as position,
        {{ row_digest(columns, 'record') }} as _digest,
        record._partition,
        record._offset
    from {{ new }} as record
    where record._error is null and record._op is not null

),

known as (

    select {{ keyed }}, _op, _lsn, _seq, position, _digest, false as was_stale, true as is_new from new_records
    {%- if incremental %}

    union all

    select
        {{ keyed }}, _op, _lsn, _seq, {{ source_position('_source_lsn', '_source_seq') }} as position, _digest,
        _is_stale as was_stale, false as is_new
    from {{ seen_by_key(this, seen_changes(key), keys, "select " ~ column_list(key, 'record') ~ " from " ~ new ~ " as record where record._op <> 't'") }} as stored
    where exists (
        select 1 from new_records where {{ same_columns(keys, 'stored', 'new_records') }} and new_records._op <> 't'
    )

    union all

    select
        {% for name in keys %}null as {{ name }}, {% endfor -%}
        't' as _op, _lsn, _seq, {{ source_position('_source_lsn', '_source_seq') }} as position, null as _digest,
        _is_stale as was_stale, false as is_new
    from {{ seen_rows(this, {'_lsn': '_lsn', '_seq': '_seq', '_source_lsn': '_source_lsn', '_source_seq': '_source_seq', '_is_stale': '_is_stale'}, where="_op = 't'") }} as stored
    {%- endif %}

),

truncated as (

    select
        known.*,
        max(case when _op = 't' then position end) over (
            order by _lsn, _seq rows between unbounded preceding and 1 preceding
        ) as truncate_position,
        case when _op <> 't' then {{ last_known('position', 'partition by ' ~ keyed ~ ", _op = 't' order by _lsn, _seq") }} else position end as at_position
    from known

),

compared as (

    select
        truncated.*,
        max(at_position) over (
            partition by {{ keyed }}, _op = 't' order by _lsn, _seq rows between unbounded preceding and 1 preceding
        ) as key_position,
        row_number() over (partition by {{ keyed }}, _op = 't', at_position, _digest order by _lsn, _seq) as repetition
    from truncated

),

decided as (

    select
        compared.*,
        was_stale
        or coalesce(at_position <= truncate_position, false)
        or (_op <> 't' and coalesce(at_position < key_position or (at_position is not null and repetition > 1), false)) as is_stale
    from compared

),

followed as (

    select
        counted.*,
        lag(newest_op) over (partition by {{ keyed }}, _op = 't' order by _lsn, _seq) as previous_op
    from (
        select
            decided.*,
            {{ last_known("case when not is_stale then _op end", 'partition by ' ~ keyed ~ ", _op = 't' order by _lsn, _seq") }} as newest_op
        from decided
    ) as counted

),

changes as (

    select
        {{ column_list(columns, 'new_records') }},
        -- of a row that is there already: its delete comes later, or never
        case when new_records._op = 'c' and followed.previous_op <> 'd' then 'u' else new_records._op end as _op,
        new_records._lsn,
        new_records._seq,
        new_records._committed_at,
        new_records._ingested_at,
        new_records._unchanged,
        cast(null as string) as _text,
        followed.is_stale as _is_stale,
        new_records._source_lsn,
        new_records._source_seq,
        new_records._digest,
        new_records._partition,
        new_records._offset
    from new_records
    inner join followed on new_records._lsn = followed._lsn and new_records._seq = followed._seq

)

select * from changes
{% endmacro %}

{#- What is cached of the log to compare new records with. -#}
{% macro seen_changes(key) %}
    {%- set kept = {} -%}
    {%- for name in key -%}{%- do kept.update({'key_' ~ loop.index: quoted(name)}) -%}{%- endfor -%}
    {%- for name in ['_op', '_lsn', '_seq', '_source_lsn', '_source_seq', '_digest', '_is_stale'] -%}{%- do kept.update({name: name}) -%}{%- endfor -%}
    {{ return(kept) }}
{% endmacro %}

{#- A position in the source's log as one number. -#}
{% macro source_position(lsn, seq) -%}
    (cast({{ lsn }} as decimal(38, 0)) * cast('10000000000000000000' as decimal(20, 0)) + {{ seq }})
{%- endmacro %}

{#- A digest of a record's row: two records of one position with the same digest are one record written twice. -#}
{% macro row_digest(columns, relation) -%}
    md5(concat_ws('|', case when {{ relation }}._op = 'd' then 'd' else '' end
    {%- for name in columns %}, coalesce(cast({{ relation }}.{{ quoted(name) }} as string), '~'){% endfor %}))
{%- endmacro %}

{#- The new changes of a captured table that count: all of a PostgreSQL table's, of a log's (change_log) the ones that
    are not stale. -#}
{% macro new_changes(relation) %}
    {%- set new = new_rows(relation) -%}
    {%- set counting = counting_changes(relation) -%}
    {{ return('(select * from ' ~ new ~ ' as changes where ' ~ counting ~ ')' if counting else new) }}
{% endmacro %}

{#- The condition for changes that count; none where all do. -#}
{% macro counting_changes(relation) %}
    {{ return('not _is_stale' if execute and relation.schema == 'silver' else none) }}
{% endmacro %}
