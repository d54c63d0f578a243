{#- Windows as declared by a table of the catalogue (`tables` of a stream): kind, size, step, key and features. -#}

{#- features, key, time and id (columns of the stream's rows), stream, past (the kind of window), seconds (its size; for
    a session the gap), step (seconds), identity (the columns that identify a window). -#}
{% macro window_shape(table) %}
    {%- set features = features_of(table) -%}
    {%- set stream = setting('streams', {}).get(features[0].stream) if features else none -%}
    {%- if stream is none -%}
        {{ return({'features': [], 'stream': {}, 'key': ['key'], 'time': 'time', 'id': 'id', 'past': 'tumble', 'seconds': 1, 'step': 1, 'identity': []}) }}
    {%- endif -%}
    {%- set declared = stream.tables[table] -%}
    {%- set ends = ['window_end'] if declared.past == 'cumulate' else [] -%}
    {{ return({
        'features': features,
        'key': declared.key,
        'stream': stream,
        'time': stream.time,
        'id': stream.id,
        'past': declared.past,
        'seconds': features[0].seconds,
        'step': features[0].step_seconds or features[0].seconds,
        'identity': ['window_start'] + ends + declared.key,
    }) }}
{% endmacro %}

{#- Each row of `relation` once for each window that contains it; sessions are built from all rows. -#}
{% macro windows_of(shape, relation) %}
    {%- if shape.past == 'tumble' -%}
        {{ return(tumble(relation, shape.time, shape.seconds)) }}
    {%- elif shape.past == 'hop' -%}
        {{ return(hop(relation, shape.time, shape.step, shape.seconds)) }}
    {%- elif shape.past == 'cumulate' -%}
        {{ return(cumulate(relation, shape.time, shape.step, shape.seconds)) }}
    {%- endif -%}
    {{ return(session(relation, shape.key, shape.time, shape.seconds)) }}
{% endmacro %}

{#- Start of the first window that ends after a moment, which is also the first that contains a row of this time. -#}
{% macro first_start_after(shape, moment) -%}
    {%- if shape.past == 'hop' -%}
        {{ window_floor(moment ~ ' - interval ' ~ shape.seconds ~ ' seconds', shape.step) }} + interval {{ shape.step }} seconds
    {%- else -%}
        {{ window_floor(moment, shape.seconds) }}
    {%- endif -%}
{%- endmacro %}

{#- End of the last window that has ended by a moment. -#}
{% macro last_end_by(shape, moment) -%}
    {{ window_floor(moment, shape.seconds if shape.past == 'tumble' else shape.step) }}
{%- endmacro %}

{#- A moment before all others. -#}
{% macro no_time() %}{{ return("timestamp '0001-01-02 00:00:00'") }}{% endmacro %}
