{#- Differences between engines. Models and other macros only use these and SQL common to DuckDB and Spark. -#}

{#- The value cast to another type; null if it does not fit. -#}
{% macro try_cast(value, type) %}{{ return(adapter.dispatch('try_cast')(value, type)) }}{% endmacro %}
{% macro default__try_cast(value, type) %}try_cast({{ value }} as {{ type }}){% endmacro %}

{#- Whether a number is neither infinite nor NaN; null for null. Not by comparison in DuckDB, which trusts Parquet
    statistics, and these ignore NaN. -#}
{% macro is_finite(number) %}{{ return(adapter.dispatch('is_finite')(number)) }}{% endmacro %}
{% macro default__is_finite(number) %}isfinite(cast({{ number }} as double)){% endmacro %}
{% macro spark__is_finite(number) %}(abs(cast({{ number }} as double)) <= 1.7976931348623157e308D){% endmacro %}

{#- A JSON object as text, from [name, expression] pairs. -#}
{% macro json_object(pairs) %}{{ return(adapter.dispatch('json_object')(pairs)) }}{% endmacro %}
{% macro default__json_object(pairs) -%}
    cast(json_object({% for name, value in pairs %}'{{ name }}', {{ value }}{{ ', ' if not loop.last }}{% endfor %}) as string)
{%- endmacro %}
{% macro spark__json_object(pairs) -%}
    to_json(named_struct({% for name, value in pairs %}'{{ name }}', {{ value }}{{ ', ' if not loop.last }}{% endfor %}))
{%- endmacro %}

{#- The string under `name` in a JSON object (text); null if there is none. -#}
{% macro json_text(object, name) %}{{ return(adapter.dispatch('json_text')(object, name)) }}{% endmacro %}
{% macro default__json_text(object, name) -%}
    json_extract_string({{ object }}, {{ sql_text('/' ~ (name | replace('~', '~0') | replace('/', '~1'))) }})
{%- endmacro %}
{% macro spark__json_text(object, name) -%}
    element_at(from_json({{ object }}, 'map<string,string>'), {{ sql_text(name) }})
{%- endmacro %}

{#- A JSON object as text, from [name, string] pairs without nulls; null if all are null. -#}
{% macro json_texts(pairs) %}{{ return(adapter.dispatch('json_texts')(pairs)) }}{% endmacro %}
{% macro default__json_texts(pairs) -%}
    nullif(cast(json_merge_patch('{}', json_object({% for name, value in pairs %}{{ sql_text(name) }}, {{ value }}{{ ', ' if not loop.last }}{% endfor %})) as string), '{}')
{%- endmacro %}
{% macro spark__json_texts(pairs) -%}
    nullif(to_json(map_filter(map({% for name, value in pairs %}{{ sql_text(name) }}, {{ value }}{{ ', ' if not loop.last }}{% endfor %}), (name, text) -> text is not null)), '{}')
{%- endmacro %}

{#- Such a JSON object (null: an empty one) merged with another one; null if both are null. -#}
{% macro json_merged(one, other) %}{{ return(adapter.dispatch('json_merged')(one, other)) }}{% endmacro %}
{% macro default__json_merged(one, other) -%}
    case
        when {{ one }} is null then {{ other }}
        when {{ other }} is null then {{ one }}
        else cast(json_merge_patch({{ one }}, {{ other }}) as string)
    end
{%- endmacro %}
{% macro spark__json_merged(one, other) -%}
    case
        when {{ one }} is null then {{ other }}
        when {{ other }} is null then {{ one }}
        else to_json(map_concat(from_json({{ one }}, 'map<string,string>'), from_json({{ other }}, 'map<string,string>')))
    end
{%- endmacro %}

{#- The strings of a JSON list (text), one row for each. -#}
{% macro json_items(list) %}{{ return(adapter.dispatch('json_items')(list)) }}{% endmacro %}
{% macro default__json_items(list) %}unnest(from_json({{ list }}, '["varchar"]')){% endmacro %}
{% macro spark__json_items(list) %}explode(from_json({{ list }}, 'array<string>')){% endmacro %}

{#- The objects of a JSON list (text), one row for each, as structs with these fields (name -> DuckDB type). -#}
{% macro json_objects(list, fields) %}{{ return(adapter.dispatch('json_objects')(list, fields)) }}{% endmacro %}
{% macro default__json_objects(list, fields) %}unnest(from_json({{ list }}, {{ sql_text(tojson([fields])) }})){% endmacro %}
{% macro spark__json_objects(list, fields) -%}
    explode(from_json({{ list }}, 'array<struct<
        {%- for name, kind in fields.items() %}{{ name }}: {{ kind | replace('varchar', 'string') }}{{ ', ' if not loop.last }}{% endfor -%}
    >>'))
{%- endmacro %}

{#- The start of the window of `seconds`, aligned to the epoch, that contains `time`. -#}
{% macro window_floor(time, seconds) %}{{ return(adapter.dispatch('window_floor')(time, seconds)) }}{% endmacro %}
{% macro default__window_floor(time, seconds) -%}
    time_bucket(interval {{ seconds }} seconds, {{ time }}, timestamp '1970-01-01 00:00:00')
{%- endmacro %}
{% macro spark__window_floor(time, seconds) -%}
    window({{ time }}, '{{ seconds }} seconds').start
{%- endmacro %}

{#- The newest non-null value of `value` up to the current row of the window (an over clause's inside). -#}
{% macro last_known(value, window) %}{{ return(adapter.dispatch('last_known')(value, window)) }}{% endmacro %}
{% macro default__last_known(value, window) -%}
    last_value({{ value }} ignore nulls) over ({{ window }} rows between unbounded preceding and current row)
{%- endmacro %}
{% macro spark__last_known(value, window) -%}
    last_value({{ value }}) ignore nulls over ({{ window }} rows between unbounded preceding and current row)
{%- endmacro %}

{#- Seconds from one timestamp to another, with fraction. -#}
{% macro seconds_between(earlier, later) %}{{ return(adapter.dispatch('seconds_between')(earlier, later)) }}{% endmacro %}
{% macro default__seconds_between(earlier, later) -%}
    (epoch({{ later }}) - epoch({{ earlier }}))
{%- endmacro %}
{% macro spark__seconds_between(earlier, later) -%}
    ((unix_micros(cast({{ later }} as timestamp)) - unix_micros(cast({{ earlier }} as timestamp))) / 1e6)
{%- endmacro %}

{#- The timestamp a number of microseconds (a bigint) later. -#}
{% macro later_by(time, microseconds) %}{{ return(adapter.dispatch('later_by')(time, microseconds)) }}{% endmacro %}
{% macro default__later_by(time, microseconds) -%}
    {{ time }} + to_microseconds({{ microseconds }})
{%- endmacro %}
{% macro spark__later_by(time, microseconds) -%}
    {{ time }} + make_dt_interval(0, 0, 0, cast({{ microseconds }} / 1000000.0 as decimal(18, 6)))
{%- endmacro %}

{#- The whole numbers from `first` to `last` as a relation with the column step. -#}
{% macro numbers(first, last) %}{{ return(adapter.dispatch('numbers')(first, last)) }}{% endmacro %}
{% macro default__numbers(first, last) -%}
    (select unnest(generate_series({{ first }}, {{ last }})) as step)
{%- endmacro %}
{% macro spark__numbers(first, last) -%}
    (select explode(sequence({{ first }}, {{ last }})) as step)
{%- endmacro %}

{#- An identifier, quoted. -#}
{% macro quoted(name) %}{{ return(adapter.dispatch('quoted')(name)) }}{% endmacro %}
{% macro default__quoted(name) %}{{ return('"' ~ (name | replace('"', '""')) ~ '"') }}{% endmacro %}
{% macro spark__quoted(name) %}{{ return('`' ~ (name | replace('`', '``')) ~ '`') }}{% endmacro %}

{#- An SQL string literal. -#}
{% macro sql_text(text) %}{{ return(adapter.dispatch('sql_text')(text)) }}{% endmacro %}
{% macro default__sql_text(text) %}{{ return("'" ~ (text | replace("'", "''")) ~ "'") }}{% endmacro %}
{% macro spark__sql_text(text) %}
    {{ return("'" ~ (text | replace("\\", "\\\\") | replace("'", "\\'")) ~ "'") }}
{% endmacro %}
