{#- A stream's declaration (fraud_lakehouse/features/streams.py). Not known while dbt parses, or in a project that is
    not prepared. -#}
{% macro stream_of(name) %}
    {%- set stream = setting('streams', {}).get(name) -%}
    {%- if execute and stream is none -%}
        {{ exceptions.raise_compiler_error("there is no stream '" ~ name ~ "'; use one of " ~ setting('streams', {}) | join(', ')) }}
    {%- endif -%}
    {{ return(stream) }}
{% endmacro %}

{#- A limit of a stream: its own, else that of the settings. Without a stream, that of the settings. -#}
{% macro limit_of(stream, name) %}
    {%- set own = stream[name] if stream else none -%}
    {{ return(setting(name) if own is none else own) }}
{% endmacro %}

{#- The key columns of the fast path's entity. -#}
{% macro fast_path_key(stream) %}
    {{ return(stream.entities[stream.entity].key if stream else []) }}
{% endmacro %}

{#- The columns of a stream's rows in cached state. Models with the same columns share one cache. -#}
{% macro event_columns(stream) %}
    {%- set columns = {} -%}
    {%- if not stream -%}{{ return(columns) }}{%- endif -%}
    {%- for name in [stream.id] + fast_path_key(stream) + [stream.time, stream.amount, 'is_amount_excluded', 'is_time_excluded'] -%}
        {%- do columns.update({name: name}) -%}
    {%- endfor -%}
    {{ return(columns) }}
{% endmacro %}

{#- The same, plus the columns of a key and the input of these features' measures. -#}
{% macro event_columns_for(stream, features, key=[]) %}
    {%- set columns = event_columns(stream) -%}
    {%- for column in key -%}
        {%- do columns.update({column: column}) -%}
    {%- endfor -%}
    {%- for feature in features if feature.measure -%}
        {%- for column in stream.measures[feature.measure].columns -%}
            {%- do columns.update({column: column}) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(columns) }}
{% endmacro %}

{#- Rows of events as features count them: without excluded event times, and with null for excluded amounts. -#}
{% macro counted_events(stream, relation) -%}
    {%- if not stream -%}{{ return(relation) }}{%- endif -%}
    (
        select
            payments.* {{ without([stream.amount]) }},
            case
                when payments.is_amount_excluded is not true
                    and {{ is_plausible('payments.' ~ stream.amount, largest_exact_amount()) }}
                    then payments.{{ stream.amount }}
            end as {{ stream.amount }}
        from {{ relation }} as payments
        where payments.is_time_excluded is not true
    )
{%- endmacro %}
