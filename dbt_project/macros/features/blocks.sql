{#- Blocks of features other than totals: each is a query with _row and its features for every evaluated row whose key
    is complete. `prepared` is a relation of prepared_rows. -#}

{#- Aggregates that need the values themselves (median, mad, max, percentile ...), in exclusive windows. -#}
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
            {{ aggregate_of(feature.aggregate, feature.measure, '_event_time', over=frame) }} as {{ feature.name }}
            {%- endfor %}
        from (select *, {{ from_microseconds('_at') }} as _event_time from {{ prepared }}) as timed
        where {{ of_entity(prepared, entity.key, touched) }}
    ) as measured
    where is_evaluated
{%- endmacro %}

{#- The same over one window, for few evaluated rows: joins each with the rows of its window, instead of a frame for
    every row. -#}
{% macro values_of_few(prepared, entity, features, seconds) -%}
    {%- set key = entity.key | join(', ') -%}
    select
        evaluated._row
        {%- for feature in features %},
        {{ aggregate_of(feature.aggregate, 'counted.' ~ feature.measure, 'counted._event_time') }} as {{ feature.name }}
        {%- endfor %}
    from (
        select _row, _at, {{ key }}
        from {{ prepared }}
        where is_evaluated and {{ of_entity(prepared, entity.key, false) }}
    ) as evaluated
    inner join (select *, {{ from_microseconds('_at') }} as _event_time from {{ prepared }}) as counted
        on {{ equal_in(entity.key, 'evaluated', 'counted') }}
        and counted._at between evaluated._at - {{ seconds * 1000000 }} and evaluated._at - 1
    group by evaluated._row
{%- endmacro %}

{#- A query for whether values_of_few is faster. It pairs each row with every evaluated row of its key; values_block
    finds a frame for each row, which costs as much as this many pairs. -#}
{% macro sparsely_evaluated(prepared, entity) -%}
    select coalesce(sum(counted * evaluated) < 20 * sum(counted), true)
    from (
        select count(*) as counted, count(case when is_evaluated then 1 end) as evaluated
        from {{ prepared }}
        where {{ of_entity(prepared, entity.key, false) }}
        group by {{ entity.key | join(', ') }}
    ) as by_key
    where evaluated > 0
{%- endmacro %}

{#- Seconds since the last earlier row, and whether there is none, over all history. `history`: a relation with the
    source's columns of all rows that count; none: `prepared` has them all. With a measure, only rows that have it. -#}
{% macro recency_block(prepared, entity, features, source, history) -%}
    {%- set key = entity.key | join(', ') -%}
    {%- set measures = features | map(attribute='measure') | unique | list -%}
    select
        _row
        {%- for feature in features %},
        {{ from_last(feature, last_name(feature.measure)) }} as {{ feature.name }}
        {%- endfor %}
    from (
        select
            _row,
            _at
            {%- for measure in measures %},
            max(seen_{{ last_name(measure) }}) over (
                partition by {{ key }} order by _at range between unbounded preceding and 1 preceding
            ) as {{ last_name(measure) }}
            {%- endfor %}
        from (
            {%- if history %}
            select
                _row, {{ key }}, _at
                {%- for measure in measures %},
                cast(null as bigint) as seen_{{ last_name(measure) }}
                {%- endfor %}
            from {{ prepared }}
            where is_evaluated and {{ of_entity(prepared, entity.key, false) }}

            union all

            select
                null, {{ key }}, {{ microseconds(source.time) }}
                {%- for measure in measures %},
                {{ if_it_has(source, measure, microseconds(source.time)) }}
                {%- endfor %}
            from {{ history }}
            where {{ of_entity(prepared, entity.key, true) }}
            {%- else %}
            select
                _row, {{ key }}, _at
                {%- for measure in measures %},
                {{ 'case when ' ~ measure ~ ' is not null then _at end' if measure else '_at' }} as seen_{{ last_name(measure) }}
                {%- endfor %}
            from {{ prepared }}
            where {{ of_entity(prepared, entity.key, false) }}
            {%- endif %}
        ) as seen
    ) as told
    where _row is not null
{%- endmacro %}

{#- The column with the time of the last earlier row, or of the last one with a measure. -#}
{% macro last_name(measure) %}{{ return('last_' ~ measure if measure else 'last') }}{% endmacro %}

{#- A value of the source's rows, null in rows without the measure (no measure: never null). -#}
{% macro if_it_has(source, measure, value) -%}
    {{ 'case when ' ~ source.measures[measure].expression ~ ' is not null then ' ~ value ~ ' end' if measure else value }}
{%- endmacro %}

{#- A feature of recency from the time of the last earlier row, null if there is none. -#}
{% macro from_last(feature, last) -%}
    {% if feature.aggregate == 'is_first' %}{{ last }} is null{% else %}(_at - {{ last }}) / 1e6{% endif %}
{%- endmacro %}

{#- The time of whole microseconds since 1970. -#}
{% macro from_microseconds(microseconds) %}{{ return(adapter.dispatch('from_microseconds')(microseconds)) }}{% endmacro %}
{% macro default__from_microseconds(microseconds) %}make_timestamp({{ microseconds }}){% endmacro %}
{% macro spark__from_microseconds(microseconds) %}timestamp_micros({{ microseconds }}){% endmacro %}
