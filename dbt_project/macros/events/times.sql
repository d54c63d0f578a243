{#- The event time of a record as UTC without a zone. `type`: of the column in bronze. A time without a zone is in the
    stream's zone. A time that occurs twice is the later one; a time that is skipped moves forward by the gap. -#}
{% macro utc_time(column, type, timezone) -%}
    {%- if type == 'varchar' and timezone == 'UTC' -%}
        cast({{ try_cast(column, instant()) }} as {{ zoneless() }})
    {%- elif type == 'varchar' -%}
        case
            when {{ has_offset(column) }} then cast({{ try_cast(column, instant()) }} as {{ zoneless() }})
            else {{ from_timezone(try_cast(column, zoneless()), timezone) }}
        end
    {%- elif type == 'timestamptz' -%}
        cast({{ column }} as {{ zoneless() }})
    {%- elif timezone == 'UTC' -%}
        cast({{ column }} as {{ zoneless() }})
    {%- else -%}
        {{ from_timezone('cast(' ~ column ~ ' as ' ~ zoneless() ~ ')', timezone) }}
    {%- endif -%}
{%- endmacro %}

{#- Whether a time's text has an offset from UTC. -#}
{% macro has_offset(text) %}{{ return(adapter.dispatch('has_offset')(text)) }}{% endmacro %}
{% macro default__has_offset(text) %}regexp_matches({{ text }}, ':[0-9.]+ ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$'){% endmacro %}
{% macro spark__has_offset(text) %}{{ text }} rlike ':[0-9.]+ ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$'{% endmacro %}

{#- The UTC time of a local one. -#}
{% macro from_timezone(time, timezone) %}{{ return(adapter.dispatch('from_timezone')(time, timezone)) }}{% endmacro %}
{% macro default__from_timezone(time, timezone) -%}
    cast(timezone({{ sql_text(timezone) }}, {{ time }}) as timestamp)
{%- endmacro %}
{% macro spark__from_timezone(time, timezone) -%}
    convert_timezone({{ sql_text(timezone) }}, 'UTC', {{ time }})
{%- endmacro %}
