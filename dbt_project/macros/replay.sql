{#- Shared by replica.sql and history.sql: change events read as the rows they describe. Both write
    `with recursive events as (...), truncates as (...), {{ resolve_unchanged(columns, key) }}`, where events has
    the source's columns, _op, _lsn, _seq, _committed_at, _unchanged, _text and _lake_key_text, and go on from the CTE
    `resolved`, which has these but _unchanged.
    A key is told by its columns and by _lake_key_text: of values that their column cannot hold (infinity, a date before
    Christ, more digits than a decimal has) it is null or rounded, and alike for keys that are not. -#}

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
            {{ return(build_from_all()) }}
        {%- endif -%}
    {%- endif -%}
    {{ return(is_incremental_build()) }}
{% endmacro %}

{#- Whether `this`, which has no `_text`, cannot tell which of its rows new events are about: the key columns of one are
    those of another row too, or were in the past. Ordinary keys are told from the new rows alone. -#}
{% macro has_keys_alike(relation, key) %}
    {%- if not execute or lake_is_unit_test() -%}{{ return(false) }}{%- endif -%}
    {%- set rounded = [] -%}
    {%- for column in adapter.get_columns_in_relation(relation) if column.name in key and column.dtype.lower().startswith('decimal') -%}
        {%- do rounded.append(column.name) -%}
    {%- endfor -%}
    {%- set new_events -%}
        (select {{ column_list(key, 'event') }}, {{ key_text(key, 'event') }} as _lake_key_text from {{ new_rows(relation) }} as event where _op <> 't')
    {%- endset -%}
    {%- if not rounded and not run_query("select 1 from " ~ new_events ~ " where _lake_key_text is not null limit 1").rows -%}
        {{ return(false) }}
    {%- endif -%}
    {%- set alike -%}
        with new_events as {{ new_events }},

        all_events as (

            select {{ column_list(key, 'event') }}, {{ key_text(key, 'event') }} as _lake_key_text
            from {{ relation }} as event
            where _op <> 't'

            union all

            select * from new_events

        ),

        beside_texts as (

            select distinct {{ column_list(key, 'all_events') }}
            from all_events
            where _lake_key_text is not null
                and exists (select 1 from new_events where {{ same_columns(key, 'all_events', 'new_events') }})

        )

        select 1
        from all_events
        where exists (select 1 from beside_texts where {{ same_columns(key, 'all_events', 'beside_texts') }})
        group by {{ column_list(key, 'all_events') }}
        having count(distinct coalesce(_lake_key_text, '')) > 1
        limit 1
    {%- endset -%}
    {{ return(run_query(alike).rows | length > 0) }}
{% endmacro %}

{#- The texts of a key's values that their columns cannot hold, as a JSON object; null for an ordinary key. -#}
{% macro key_text(key, prefix) -%}
    {%- set texts = [] -%}
    {%- for name in key -%}{%- do texts.append([name, json_text(prefix ~ '._text', name)]) -%}{%- endfor -%}
    case when {{ prefix }}._text is not null then {{ json_texts(texts) }} end
{%- endmacro %}

{#- What tells the rows of one key from others: its columns and _lake_key_text. -#}
{% macro key_columns(key, prefix) -%}
    {{ column_list(key, prefix) }}, {{ prefix }}._lake_key_text
{%- endmacro %}

{#- `prefix.name as other, ...` -#}
{% macro renamed_list(names, others, prefix) -%}
    {% for name in names -%}
        {{ prefix }}.{{ quoted(name) }} as {{ quoted(others[loop.index0]) }}{{ ', ' if not loop.last }}
    {%- endfor %}
{%- endmacro %}

{#- Whether two rows have the same key. -#}
{% macro same_key(key, left, right) -%}
    {{ same_columns(key + ['_lake_key_text'], left, right) }}
{%- endmacro %}

{#- `left.name is not distinct from right.name and ...` -#}
{% macro same_columns(names, left, right) -%}
    {% for name in names -%}
        {{ left }}.{{ quoted(name) }} is not distinct from {{ right }}.{{ quoted(name) }}{{ ' and ' if not loop.last }}
    {%- endfor %}
{%- endmacro %}

{#- Whether one position in the log lies before another. -#}
{% macro is_before(left, right) -%}
    ({{ left }}._lsn < {{ right }}._lsn or ({{ left }}._lsn = {{ right }}._lsn and {{ left }}._seq < {{ right }}._seq))
{%- endmacro %}

{#- Put back the values that an update did not send because they had not changed (large values stored aside).
    The value is that of the row's previous version, which a changed key has under the old key: `d` (old key)
    and `u` (new key) then have consecutive _seq. A life is what one key holds from insert to delete; a chain
    is the lives one row went through. Only keys with such events are looked at. A value's text in _text goes with it. -#}
{% macro resolve_unchanged(columns, key) %}
{%- set filled = columns | reject('in', key) | list -%}
{%- set texts = [] -%}
{%- for name in columns -%}
    {%- set text = json_text('_text', name) -%}
    {%- do texts.append([name, text if name in key else sent_value(name, text)]) -%}
{%- endfor -%}
partial_keys as (

    select {{ key_columns(key, 'events') }}
    from events
    where events._unchanged is not null

    union

    select {{ key_columns(key, 'departed') }}
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
            order by {{ key_columns(key, 'partial_events') }}, partial_events._lsn, partial_events._seq
        ) as _lake_event_id
    from partial_events
    left join truncates_before
        on partial_events._lsn = truncates_before._lsn and partial_events._seq = truncates_before._seq

),

followed_events as (

    select
        ordered_events.*,
        lag(_op) over (
            partition by _lake_era, {{ key_columns(key, 'ordered_events') }} order by _lsn, _seq
        ) as _lake_previous_op
    from ordered_events

),

lives as (

    select
        followed_events.*,
        max(case when _lake_previous_op is null or _lake_previous_op = 'd' or _op in ('c', 'r') then _lake_event_id end) over (
            partition by {{ key_columns(key, 'followed_events') }} order by _lsn, _seq
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
        events._op, events._lsn, events._seq, events._committed_at, events._text, events._lake_key_text
    from events
    where not exists (select 1 from partial_keys where {{ same_key(key, 'events', 'partial_keys') }})

    union all

    select
        {% for name in columns -%}
        {{ quoted(name) if name in key else sent_value(name, quoted(name)) }} as {{ quoted(name) }},
        {% endfor -%}
        _op, _lsn, _seq, _committed_at,
        {{ json_texts(texts) }} as _text,
        _lake_key_text
    from chained_events

)
{%- endmacro %}

{#- The value of an expression in the event of the chain that sent the column `name` last. -#}
{% macro sent_value(name, value) -%}
    first_value({{ value }}) over (
        partition by _lake_chain, {{ quoted('_lake_sent_' ~ name) }} order by _lsn, _seq
    )
{%- endmacro %}
