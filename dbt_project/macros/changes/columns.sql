{#- Streams of kind `changes`: rows of a PostgreSQL table that may be updated and deleted. Their models use common
    column names, whatever the stream's are called:

    transaction_id  the stream's id
    entity_id       the key of its first entity, which alerts are about
    event_time      its time, in UTC without a zone
    amount          its amount
    carried_1, ...  the keys of its other entities, and its label -#}

{#- The key column of its first entity. -#}
{% macro entity_column(stream) %}
    {{ return(fast_path_key(stream)[0]) }}
{% endmacro %}

{#- The key columns of its other entities, and its label: source name -> name in the models. -#}
{% macro carried_columns(stream) %}
    {%- set columns = other_keys(stream) + ([stream.label] if stream.label else []) -%}
    {%- set named = {} -%}
    {%- for column in columns | unique -%}{%- do named.update({column: 'carried_' ~ loop.index}) -%}{%- endfor -%}
    {{ return(named) }}
{% endmacro %}

{#- The key columns of its other entities. -#}
{% macro other_keys(stream) %}
    {{ return(feature_keys(stream) | reject('in', [stream.id, entity_column(stream), stream.time, stream.amount]) | list) }}
{% endmacro %}

{#- The same as further columns from a relation. -#}
{% macro carried(stream, relation=none) -%}
    {%- for name in carried_columns(stream).values() %}, {{ relation ~ '.' if relation }}{{ name }}{% endfor %}
{%- endmacro %}

{#- The columns whose unchanged value an update may omit (large texts): source name -> name in the models. -#}
{% macro text_columns(stream) %}
    {%- set named = {} -%}
    {%- for name, own in role_columns(stream).items() if name not in ['transaction_id', 'amount', 'event_time'] -%}
        {%- if stream_type(stream, own) == 'varchar' -%}{%- do named.update({own: name}) -%}{%- endif -%}
    {%- endfor -%}
    {{ return(named) }}
{% endmacro %}

{#- The columns whose change makes a new entry of a payment: name in the models -> name in the ledger. -#}
{% macro role_columns(stream) %}
    {%- set named = {
        'transaction_id': stream.id,
        'entity_id': entity_column(stream),
        'amount': stream.amount,
        'event_time': stream.time,
    } -%}
    {%- for own, name in carried_columns(stream).items() -%}{%- do named.update({name: own}) -%}{%- endfor -%}
    {{ return(named) }}
{% endmacro %}

{#- The ledger's columns in cached state; models with the same columns share one cache. -#}
{% macro entry_columns(stream) %}
    {%- set kept = role_columns(stream) -%}
    {%- for name in ['weight', 'is_amount_excluded', 'is_time_excluded', '_lsn', '_seq'] -%}
        {%- do kept.update({name: name}) -%}
    {%- endfor -%}
    {{ return(kept) }}
{% endmacro %}

{#- New entries of the ledger, with their names in the models. -#}
{% macro new_entries(stream, new_ledger) -%}
    (
        select
            {%- for name, own in role_columns(stream).items() %}
            {{ own }} as {{ name }},
            {%- endfor %}
            weight, is_amount_excluded, is_time_excluded, amount_text, _lsn, _seq, _op, _committed_at, _ingested_at
        from {{ new_ledger }}
    )
{%- endmacro %}

{#- Entries as features count them: an excluded time, an excluded amount and the amount of an excluded time are null.
    The source's values are given_amount and given_time. -#}
{% macro counted_entries(relation) -%}
    (
        select
            given.* {{ without(['amount', 'event_time']) }},
            case
                when given.is_amount_excluded is not true
                    and given.is_time_excluded is not true
                    and {{ is_plausible('given.amount', largest_exact_amount()) }}
                    then given.amount
            end as amount,
            case when given.is_time_excluded is not true then given.event_time end as event_time,
            given.amount as given_amount,
            given.event_time as given_time
        from {{ relation }} as given
    )
{%- endmacro %}

{#- The type of an id or key in the stream's models: that of bronze, but bigint for all integers. -#}
{% macro stream_type(stream, column) %}
    {%- set kind = stream.fields.get(column, 'bigint') -%}
    {{ return('bigint' if kind in ['tinyint', 'smallint', 'integer'] else kind) }}
{% endmacro %}
