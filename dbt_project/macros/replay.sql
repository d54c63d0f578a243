{#- Shared by replica.sql and history.sql: turns change events into the rows they describe. A table may have 1,600
    columns, so `events`, which decides which events count, has only the key, _op, _lsn, _seq, _unchanged and
    _lake_key_text. Whole rows are read once, at the end (`resolved`), joined by position (_lsn, _seq). A key consists
    of its columns and _lake_key_text. A value that its column cannot represent (infinity, a date BC, more digits than a
    decimal has) is null or rounded there, so that different keys may look equal. -#}

{#- Names of the source's columns in a bronze relation, including dropped ones; `present`: the names of the current
    ones. In a unit test, the columns of the tested model, since its input is not a relation. -#}
{% macro source_columns(relation, present=none) %}
    {%- if present and not lake_is_unit_test() -%}{{ return(present) }}{%- endif -%}
    {%- set meta = ['_op', '_lsn', '_seq', '_committed_at', '_ingested_at', '_commit', '_unchanged', '_text'] -%}
    {%- set added = ['valid_from', 'valid_to', 'is_deleted'] -%}
    {%- if not execute -%}{{ return([]) }}{%- endif -%}
    {%- if lake_is_unit_test() -%}
        {%- set tested = api.Relation.create(
            database=target.database, schema='silver', identifier=model.tested_node_unique_id.split('.')[-1]
        ) -%}
        {%- set names = adapter.get_columns_in_relation(tested) | map(attribute='name') | reject('in', added) -%}
    {%- else -%}
        {%- set names = declared_columns(relation) -%}
    {%- endif -%}
    {{ return(names | reject('in', meta) | list) }}
{% endmacro %}

{#- The declared columns of a bronze relation, name -> type: the captured ones, or those of its yml. -#}
{% macro declared_columns(relation) %}
    {%- set captured = setting('captured_columns', {}) -%}
    {%- if relation.identifier in captured -%}{{ return(captured[relation.identifier]) }}{%- endif -%}
    {%- for id in model.depends_on.nodes if id in graph.sources and graph.sources[id].identifier == relation.identifier -%}
        {{ return(lake_columns(graph.sources[id])) }}
    {%- endfor -%}
    {%- for id in model.depends_on.nodes if id in graph.nodes and graph.nodes[id].alias == relation.identifier -%}
        {{ return(lake_columns(graph.nodes[id])) }}
    {%- endfor -%}
    {{ return({}) }}
{% endmacro %}

{#- `prefix.name, ...`, quoted, because names from the source are arbitrary. -#}
{% macro column_list(names, prefix) -%}
    {% for name in names %}{{ prefix }}.{{ quoted(name) }}{{ ', ' if not loop.last }}{% endfor %}
{%- endmacro %}

{#- Whether an incremental build can continue from the stored rows: they must have the columns (under their names
    `stored_as`) in the types of bronze, and with `exactly` no others and in this order.
    Columns that macros add are called `_lake_...`, which no source column is. -#}
{% macro is_incremental_replay(relation, columns, stored_as, exactly=false) %}
    {%- set names = {} -%}
    {%- for name in columns -%}{%- do names.update({name: stored_as[loop.index0]}) -%}{%- endfor -%}
    {{ return(is_incremental_build(stored={'source': relation, 'names': names, 'exactly': exactly})) }}
{% endmacro %}

{#- Queries that all return a row if `this`, which has no `_text`, cannot identify its rows that new events affect:
    another row has, or had, the same key columns. Ordinary keys need only the first query, which reads only new rows; a
    decimal may have been rounded in the past. -#}
{% macro keys_alike(relation, key, new_rows_of) %}
    {%- set rounded = [] -%}
    {%- if execute and not lake_is_unit_test() -%}
    {%- for name, kind in declared_columns(relation).items() if name in key and kind.lower().startswith('decimal') -%}
        {%- do rounded.append(name) -%}
    {%- endfor -%}
    {%- endif -%}
    {%- set new_events -%}
        (select {{ column_list(key, 'event') }}, {{ key_text(key, 'event') }} as _lake_key_text from {{ new_rows_of }} as event where _op <> 't')
    {%- endset -%}
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
    {%- set has_texts = 'select 1 from ' ~ new_events ~ ' as new_events where _lake_key_text is not null limit 1' -%}
    {{ return([alike] if rounded else [has_texts, alike]) }}
{% endmacro %}

{#- The texts of a key's values that their columns cannot represent, as a JSON object; null for an ordinary key. -#}
{% macro key_text(key, prefix) -%}
    {%- set texts = [] -%}
    {%- for name in key -%}{%- do texts.append([name, json_text(prefix ~ '._text', name)]) -%}{%- endfor -%}
    case when {{ prefix }}._text is not null then {{ json_texts(texts) }} end
{%- endmacro %}

{#- The complete key: its columns and _lake_key_text. -#}
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

{#- Whether one position in the log is before another. -#}
{% macro is_before(left, right) -%}
    ({{ left }}._lsn < {{ right }}._lsn or ({{ left }}._lsn = {{ right }}._lsn and {{ left }}._seq < {{ right }}._seq))
{%- endmacro %}

{#- The rows of `values` (columns, _lsn, _seq, _text), with the values that were not sent filled in. -#}
{% macro resolved_rows(columns, unsent, values) -%}
    {%- if not unsent -%}
    {{ values }}
    {%- else -%}
    select
        {% for name in columns -%}
        {%- if name in unsent -%}
        coalesce(event_values.{{ quoted(name) }}, filled_events.{{ quoted(name) }}) as {{ quoted(name) }},
        {% else -%}
        event_values.{{ quoted(name) }},
        {% endif -%}
        {% endfor -%}
        event_values._lsn, event_values._seq,
        {{ json_merged('event_values._text', 'filled_events._text') }} as _text
    from (
        {{ values }}
    ) as event_values
    left join filled_events on event_values._lsn = filled_events._lsn and event_values._seq = filled_events._seq
    {%- endif -%}
{%- endmacro %}

{#- Restores values of the columns `unsent` that an update did not send because they had not changed (TOAST values).
    Reads `events`, `truncates` and `sent_values` (the columns, _lsn, _seq, _text); the result is `filled_events`, by
    _lsn and _seq.
    The value is from the row's previous version. After a change of the key, that version has the old key: `d` (old key)
    and `u` (new key) have consecutive _seq. A life is the period of one key from insert to delete; a chain is the
    sequence of lives of one row. Only keys with such events are read. A value's text in _text is restored with it. -#}
{% macro resolve_unchanged(unsent, key) %}
{%- set texts = [] -%}
{%- for name in unsent -%}
    {%- do texts.append([name, value_of(name, json_text('sent_values._text', name))]) -%}
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
        lives._op, lives._lsn, lives._seq, lives._unchanged, chains._lake_chain,
        row_number() over (partition by chains._lake_chain order by lives._lsn, lives._seq) as _lake_step
    from lives
    inner join chains on lives._lake_life = chains._lake_life

),

unsent_values as (

    select _lake_chain, _lake_step, {{ json_items('_unchanged') }} as _lake_name
    from chained_events
    where _unchanged is not null

),

chain_columns as (

    select distinct _lake_chain, _lake_name from unsent_values

),

chain_values as (

    select chained_events.*, chain_columns._lake_name, unsent_values._lake_name is not null as _lake_is_unsent
    from chained_events
    inner join chain_columns on chained_events._lake_chain = chain_columns._lake_chain
    left join unsent_values
        on chained_events._lake_chain = unsent_values._lake_chain
        and chained_events._lake_step = unsent_values._lake_step
        and chain_columns._lake_name = unsent_values._lake_name

),

sourced_values as (

    select
        chain_values.*,
        max(case when _op <> 'd' and not _lake_is_unsent then _lake_step end) over (
            partition by _lake_chain, _lake_name order by _lake_step
            rows between unbounded preceding and current row
        ) as _lake_sent_at
    from chain_values

),

filled_events as (

    select
        sourced_values._lsn, sourced_values._seq,
        {% for name in unsent -%}
        {{ value_of(name, 'sent_values.' ~ quoted(name)) }} as {{ quoted(name) }},
        {% endfor -%}
        {{ json_texts(texts) }} as _text
    from sourced_values
    left join chained_events as senders
        on sourced_values._lake_chain = senders._lake_chain and sourced_values._lake_sent_at = senders._lake_step
    left join sent_values on senders._lsn = sent_values._lsn and senders._seq = sent_values._seq
    where sourced_values._lake_is_unsent
    group by sourced_values._lsn, sourced_values._seq

)
{%- endmacro %}

{#- The restored value of column `name`. -#}
{% macro value_of(name, value) -%}
    max(case when sourced_values._lake_name = {{ sql_text(name) }} then {{ value }} end)
{%- endmacro %}
