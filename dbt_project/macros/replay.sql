{#- Shared by replica.sql and history.sql: change events read as the rows they describe. Both write
    `with recursive events as (...), truncates as (...), {{ resolve_unchanged(columns, key) }}` and go on
    from the CTE `resolved`, which has the columns of `events`:
    source columns, _op, _lsn, _seq, _committed_at, _unchanged. -#}

{#- Names of the source's own columns in a bronze relation, those it has dropped included; `present`: the names of
    those it has. A unit test's input is no relation one could ask: there the columns of the tested model count. -#}
{% macro source_columns(relation, present=none) %}
    {%- if present and not lake_is_unit_test() -%}{{ return(present) }}{%- endif -%}
    {%- set meta = ['_op', '_lsn', '_seq', '_committed_at', '_ingested_at', '_unchanged', '_text'] -%}
    {%- set added = ['valid_from', 'valid_to', 'is_deleted'] -%}
    {%- set names = [] -%}
    {%- if execute -%}
        {%- if model.resource_type == 'unit_test' -%}
            {%- set tested = model.tested_node_unique_id.split('.')[-1] -%}
            {%- set relation = api.Relation.create(database=target.database, schema='silver', identifier=tested) -%}
            {%- set meta = meta + added -%}
        {%- endif -%}
        {%- for column in adapter.get_columns_in_relation(relation) if column.name not in meta -%}
            {%- do names.append(column.name) -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(names) }}
{% endmacro %}

{#- `prefix.name, ...`, quoted: names come from the source and may be anything. -#}
{% macro column_list(names, prefix) -%}
    {% for name in names %}{{ prefix }}.{{ quoted(name) }}{{ ', ' if not loop.last }}{% endfor %}
{%- endmacro %}

{#- Whether the stored table can be gone on with; if not, the model is built from all events. A stored table has to have
    the columns (under their names `stored_as`) in their types, and with `exactly` no others and in this order.
    What macros add to rows on the way is called `_lake_...`, which no column of a source is. -#}
{% macro is_incremental_replay(relation, columns, stored_as, exactly=false) %}
    {%- if execute and not lake_is_unit_test() -%}
        {%- set wanted, stored = {}, {} -%}
        {%- for column in adapter.get_columns_in_relation(relation) -%}
            {%- do wanted.update({column.name: column.dtype}) -%}
        {%- endfor -%}
        {%- for column in adapter.get_columns_in_relation(this) -%}
            {%- do stored.update({column.name: column.dtype}) -%}
        {%- endfor -%}
        {%- set others = [] -%}
        {%- for name in columns -%}
            {%- if stored.get(stored_as[loop.index0]) != wanted[name] -%}{%- do others.append(name) -%}{%- endif -%}
        {%- endfor -%}
        {%- if others or (exactly and stored | list != stored_as | list) -%}
            {%- set call = lake_consumer() -%}
            {%- do call.update({'full_refresh': true}) -%}
            {{ return(lake_call('plan', call)) }}
        {%- endif -%}
    {%- endif -%}
    {{ return(is_incremental_build()) }}
{% endmacro %}

{#- `prefix.name as other, ...` -#}
{% macro renamed_list(names, others, prefix) -%}
    {% for name in names -%}
        {{ prefix }}.{{ quoted(name) }} as {{ quoted(others[loop.index0]) }}{{ ', ' if not loop.last }}
    {%- endfor %}
{%- endmacro %}

{#- `left.key = right.key and ...` -#}
{% macro same_key(key, left, right) -%}
    {% for name in key %}{{ left }}.{{ quoted(name) }} = {{ right }}.{{ quoted(name) }}{{ ' and ' if not loop.last }}{% endfor %}
{%- endmacro %}

{#- Whether one position in the log lies before another. -#}
{% macro is_before(left, right) -%}
    ({{ left }}._lsn < {{ right }}._lsn or ({{ left }}._lsn = {{ right }}._lsn and {{ left }}._seq < {{ right }}._seq))
{%- endmacro %}

{#- Put back the values that an update did not send because they had not changed (large values stored aside).
    The value is that of the row's previous version, which a changed key has under the old key: `d` (old key)
    and `u` (new key) then have consecutive _seq. A life is what one key holds from insert to delete; a chain
    is the lives one row went through. Only keys with such events are looked at. -#}
{% macro resolve_unchanged(columns, key) %}
{%- set filled = columns | reject('in', key) | list -%}
partial_keys as (

    select {{ column_list(key, 'events') }}
    from events
    where events._unchanged is not null

    union

    select {{ column_list(key, 'departed') }}
    from events
    inner join events as departed
        on events._lsn = departed._lsn and events._seq = departed._seq + 1
    where events._unchanged is not null and departed._op = 'd'

),

partial_events as (

    select events.*
    from events
    inner join partial_keys on {{ same_key(key, 'events', 'partial_keys') }}

),

truncates_before as (

    select partial_events._lsn, partial_events._seq, count(*) as truncates_before
    from partial_events
    inner join truncates on {{ is_before('truncates', 'partial_events') }}
    group by partial_events._lsn, partial_events._seq

),

ordered_events as (

    select
        partial_events.*,
        coalesce(truncates_before.truncates_before, 0) as _lake_era,
        row_number() over (
            order by {{ column_list(key, 'partial_events') }}, partial_events._lsn, partial_events._seq
        ) as _lake_event_id
    from partial_events
    left join truncates_before
        on partial_events._lsn = truncates_before._lsn and partial_events._seq = truncates_before._seq

),

followed_events as (

    select
        ordered_events.*,
        lag(_op) over (
            partition by _lake_era, {{ column_list(key, 'ordered_events') }} order by _lsn, _seq
        ) as _lake_previous_op
    from ordered_events

),

lives as (

    select
        followed_events.*,
        max(case when _lake_previous_op is null or _lake_previous_op = 'd' or _op in ('c', 'r') then _lake_event_id end) over (
            partition by {{ column_list(key, 'followed_events') }} order by _lsn, _seq
            rows between unbounded preceding and current row
        ) as _lake_life
    from followed_events

),

moves as (

    select departed._lake_life as from_life, arrived._lake_life as to_life
    from lives as arrived
    inner join lives as departed on arrived._lsn = departed._lsn and arrived._seq = departed._seq + 1
    where arrived._lake_event_id = arrived._lake_life
        and arrived._op = 'u'
        and arrived._unchanged is not null
        and departed._op = 'd'

),

chains as (

    select lives._lake_life, lives._lake_life as _lake_chain
    from lives
    left join moves on lives._lake_life = moves.to_life
    where lives._lake_event_id = lives._lake_life and moves.to_life is null

    union all

    select moves.to_life as _lake_life, chains._lake_chain
    from chains
    inner join moves on chains._lake_life = moves.from_life

),

chained_events as (

    select
        lives.*,
        chains._lake_chain
        {%- for name in filled %},
        count(case when lives._op <> 'd' and not coalesce({{ json_list_holds('lives._unchanged', name) }}, false) then 1 end)
            over (
                partition by chains._lake_chain order by lives._lsn, lives._seq
                rows between unbounded preceding and current row
            ) as {{ quoted('_lake_sent_' ~ name) }}
        {%- endfor %}
    from lives
    inner join chains on lives._lake_life = chains._lake_life

),

resolved as (

    select
        {{ column_list(columns, 'events') }},
        events._op, events._lsn, events._seq, events._committed_at
    from events
    where not exists (select 1 from partial_keys where {{ same_key(key, 'events', 'partial_keys') }})

    union all

    select
        {% for name in columns -%}
        {% if name in key %}{{ quoted(name) }}{% else -%}
        first_value({{ quoted(name) }}) over (
            partition by _lake_chain, {{ quoted('_lake_sent_' ~ name) }} order by _lsn, _seq
        ) as {{ quoted(name) }}
        {%- endif %},
        {% endfor -%}
        _op, _lsn, _seq, _committed_at
    from chained_events

)
{%- endmacro %}
