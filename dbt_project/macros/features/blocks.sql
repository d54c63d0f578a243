{#- Blocks of features beside the totals: each is a query with _row and its features for every evaluated row whose key
    is complete. `prepared` is a relation of prepared_rows. -#}

{#- Aggregates that need the values themselves (median, mad, max, percentile ...), strictly past. -#}
{% macro values_block(prepared, entity, features, touched) -%}
    select _row{% for feature in features %}, {{ feature.name }}{% endfor %}
    from (
        select
            _row,
            is_evaluated
            {%- for feature in features %},
            {%- set frame -%}
            partition by {{ entity.key | join(', ') }} order by _at
                range between {{ feature.seconds * 1000000 }} preceding and 1 preceding
            {%- endset %}
            {{ aggregate_of(feature.aggregate, feature.measure, 'event_time', over=frame) }} as {{ feature.name }}
            {%- endfor %}
        from (select *, {{ from_microseconds('_at') }} as event_time from {{ prepared }}) as timed
        where {{ of_entity(prepared, entity.key, touched) }}
    ) as measured
    where is_evaluated
{%- endmacro %}

{#- Numbers of different values. A value counts once however often it was seen: the rows in the window, less those that
    repeat a value of the window. A row at t that repeats one of time p does so for every window that reaches back to p:
    from just after t until p + window; so running sums of begun and ended repeats tell how many there are.
    `last_seen`: a relation of last_seen_rows. -#}
{% macro distinct_block(last_seen, entity, measure, features) -%}
    {%- set key = entity.key | join(', ') -%}
    select _row{% for feature in features %}, {{ feature.name }}{% endfor %}
    from (
        select
            _row,
            is_evaluated
            {%- for feature in features %},
            count(seen) over last_{{ feature.seconds }} - repeats_{{ feature.seconds }} as {{ feature.name }}
            {%- endfor %}
        from (
            select
                _row, is_evaluated, {{ key }}, _at, seen
                {%- for feature in features %},
                coalesce(sum(begins_{{ feature.seconds }}) over before, 0) as repeats_{{ feature.seconds }}
                {%- endfor %}
            from (
                select
                    _row, is_evaluated, {{ key }}, _at, {{ measure }} as seen
                    {%- for feature in features %},
                    case when _at - _last < {{ feature.seconds * 1000000 }} then 1 else 0 end as begins_{{ feature.seconds }}
                    {%- endfor %}
                from {{ last_seen }}
                {%- for ending in features %}

                union all

                select
                    null, false, {{ key }}, _last + {{ ending.seconds * 1000000 }}, null
                    {%- for feature in features %},
                    {{ -1 if feature.seconds == ending.seconds else 0 }}
                    {%- endfor %}
                from {{ last_seen }}
                where _at - _last < {{ ending.seconds * 1000000 }}
                {%- endfor %}
            ) as begun_and_ended
            window before as (partition by {{ key }} order by _at range between unbounded preceding and 1 preceding)
        ) as running
        where _row is not null
        window
            {%- for feature in features %}
            last_{{ feature.seconds }} as (
                partition by {{ key }} order by _at range between {{ feature.seconds * 1000000 }} preceding and 1 preceding
            ){{ ',' if not loop.last }}
            {%- endfor %}
    ) as counted
    where is_evaluated
{%- endmacro %}

{#- For distinct_block: each row with the time its value was last seen before, of equal times one after the other. -#}
{% macro last_seen_rows(prepared, entity, measure, touched) -%}
    select
        _row, is_evaluated, {{ entity.key | join(', ') }}, _at, {{ measure }},
        case
            when {{ measure }} is not null
                then lag(_at) over (partition by {{ entity.key | join(', ') }}, {{ measure }} order by _at)
        end as _last
    from {{ prepared }}
    where {{ of_entity(prepared, entity.key, touched) }}
{%- endmacro %}

{#- Seconds since the last earlier row, and whether there is none, over all history: `history` is a relation with the
    source's own columns, all rows that count; none: `prepared` holds them all. -#}
{% macro recency_block(prepared, entity, features, source, history) -%}
    {%- set key = entity.key | join(', ') -%}
    select
        _row
        {%- for feature in features %},
        {{ from_last(feature, '_last') }} as {{ feature.name }}
        {%- endfor %}
    from (
        {%- if history %}
        select
            _row,
            _at,
            max(case when _row is null then _at end) over (
                partition by {{ key }} order by _at range between unbounded preceding and 1 preceding
            ) as _last
        from (
            select _row, {{ key }}, _at
            from {{ prepared }}
            where is_evaluated and {{ of_entity(prepared, entity.key, false) }}

            union all

            select null, {{ key }}, {{ microseconds(source.time) }}
            from {{ history }}
            where {{ of_entity(prepared, entity.key, true) }}
        ) as seen
        {%- else %}
        select
            _row,
            _at,
            max(_at) over (partition by {{ key }} order by _at range between unbounded preceding and 1 preceding) as _last
        from {{ prepared }}
        where {{ of_entity(prepared, entity.key, false) }}
        {%- endif %}
    ) as told
    where _row is not null
{%- endmacro %}

{#- A feature of recency from the time of the last earlier row, null if there is none. -#}
{% macro from_last(feature, last) -%}
    {% if feature.aggregate == 'is_first' %}{{ last }} is null{% else %}(_at - {{ last }}) / 1e6{% endif %}
{%- endmacro %}

{#- The time of whole microseconds since 1970. -#}
{% macro from_microseconds(microseconds) %}{{ return(adapter.dispatch('from_microseconds')(microseconds)) }}{% endmacro %}
{% macro default__from_microseconds(microseconds) %}make_timestamp({{ microseconds }}){% endmacro %}
{% macro spark__from_microseconds(microseconds) %}timestamp_micros({{ microseconds }}){% endmacro %}
