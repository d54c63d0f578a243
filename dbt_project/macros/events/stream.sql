{#- What macros need to know of a stream (fraud_lakehouse/features/streams.py). While dbt parses, and in a project that is
    not prepared, it is not known yet. -#}
{% macro stream_of(name) %}
    {%- set stream = setting('streams', {}).get(name) -%}
    {%- if execute and stream is none -%}
        {{ exceptions.raise_compiler_error("there is no stream '" ~ name ~ "'; use one of " ~ setting('streams', {}) | join(', ')) }}
    {%- endif -%}
    {{ return(stream) }}
{% endmacro %}

{#- A limit of a stream: its own, else that of the settings. Without a stream that of the settings. -#}
{% macro limit_of(stream, name) %}
    {%- set own = stream[name] if stream else none -%}
    {{ return(setting(name) if own is none else own) }}
{% endmacro %}

{#- The columns of whom the fast path is about. -#}
{% macro fast_path_key(stream) %}
    {{ return(stream.entities[stream.entity].key if stream else []) }}
{% endmacro %}

{#- What mirrors keep of a stream's rows. Models that ask for the same columns share one mirror. -#}
{% macro event_columns(stream) %}
    {%- set columns = {} -%}
    {%- if not stream -%}{{ return(columns) }}{%- endif -%}
    {%- for name in [stream.id] + fast_path_key(stream) + [stream.time, stream.amount, 'is_amount_excluded', 'is_time_excluded'] -%}
        {%- do columns.update({name: name}) -%}
    {%- endfor -%}
    {{ return(columns) }}
{% endmacro %}

{#- The same, with the columns of a key and those that measures of these features are computed from. -#}
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

{#- Rows of events as features count them: without those whose event time is excluded, an excluded amount as null. -#}
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
