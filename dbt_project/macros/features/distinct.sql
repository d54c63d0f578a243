{#- Distinct counts of one entity over exclusive windows: one row per evaluated row, with _row and the features. The
    count is the number of rows in the window minus those that repeat a value of the window. A row at t that repeats one
    of time p does so in every window that includes p: from just after t until p + window. So running sums of begun and
    ended repeats give the number of repeats.
    `last_seen`: a relation of last_seen_rows. -#}
{% macro distinct_block(last_seen, entity, measure, features) %}
    {%- if entity.partitions == 'large' -%}
        {{ return(distinct_of_large(last_seen, entity.key, measure, features)) }}
    {%- endif -%}
    {{ return(distinct_by_frame(last_seen, entity.key, measure, features)) }}
{% endmacro %}

{% macro distinct_by_frame(last_seen, keys, measure, features) -%}
    {%- set key = keys | join(', ') -%}
    select _row{% for feature in features %}, {{ feature.name }}{% endfor %}
    from (
        select
            _row,
            is_evaluated
            {%- for feature in features %},
            (count(seen) over last_{{ feature.seconds }}) - repeats_{{ feature.seconds }} as {{ feature.name }}
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

{#- For distinct_block: each row with the time when its value was last seen before; rows of equal time follow one
    another. -#}
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

{#- The same for few keys with very many rows, where finding each row's frame is the main cost: running counts of rows,
    and of those that repeat a value within a window (by their time and by the previous time of the value), looked up at
    both ends of the window. -#}
{% macro distinct_of_large(last_seen, keys, measure, features) %}
    {{ return(adapter.dispatch('distinct_of_large')(last_seen, keys, measure, features)) }}
{% endmacro %}
{% macro spark__distinct_of_large(last_seen, keys, measure, features) -%}
    {{ distinct_by_frame(last_seen, keys, measure, features) }}
{%- endmacro %}
{% macro default__distinct_of_large(last_seen, keys, measure, features) -%}
    {%- set key = keys | join(', ') -%}
    {%- set windows = features | map(attribute='seconds') | unique | list -%}
    with by_time as (

        select
            {{ key }},
            _at,
            count({{ measure }}) as seen
            {%- for seconds in windows %},
            count(case when _at - _last < {{ seconds * 1000000 }} then 1 end) as repeats_{{ seconds }}
            {%- endfor %}
        from {{ last_seen }}
        group by {{ key }}, _at

    ),

    begun as {{ computed_once() }} (

        select
            {{ key }},
            _at,
            sum(seen) over up_to as seen
            {%- for seconds in windows %},
            sum(repeats_{{ seconds }}) over up_to as repeats_{{ seconds }}
            {%- endfor %}
        from by_time
        window up_to as (partition by {{ key }} order by _at rows between unbounded preceding and current row)

    ),

    by_last_time as (

        select
            {{ key }},
            _last
            {%- for seconds in windows %},
            count(case when _at - _last < {{ seconds * 1000000 }} then 1 end) as repeats_{{ seconds }}
            {%- endfor %}
        from {{ last_seen }}
        where _last is not null
        group by {{ key }}, _last

    ),

    ended as {{ computed_once() }} (

        select
            {{ key }},
            _last
            {%- for seconds in windows %},
            sum(repeats_{{ seconds }}) over up_to as repeats_{{ seconds }}
            {%- endfor %}
        from by_last_time
        window up_to as (partition by {{ key }} order by _last rows between unbounded preceding and current row)

    ),

    evaluated as (

        select _row, {{ key }}, _at from {{ last_seen }} where is_evaluated

    )

    select
        evaluated._row
        {%- for feature in features %},
        coalesce(upto.seen, 0) - coalesce(from_{{ feature.seconds }}.seen, 0)
        - coalesce(upto.repeats_{{ feature.seconds }}, 0)
        + coalesce(ended_{{ feature.seconds }}.repeats_{{ feature.seconds }}, 0) as {{ feature.name }}
        {%- endfor %}
    from evaluated
    asof left join begun as upto
        on {{ equal_in(keys, 'evaluated', 'upto') }}
        and evaluated._at > upto._at
    {%- for seconds in windows %}
    asof left join begun as from_{{ seconds }}
        on {{ equal_in(keys, 'evaluated', 'from_' ~ seconds) }}
        and evaluated._at - {{ seconds * 1000000 }} > from_{{ seconds }}._at
    asof left join ended as ended_{{ seconds }}
        on {{ equal_in(keys, 'evaluated', 'ended_' ~ seconds) }}
        and evaluated._at - {{ seconds * 1000000 }} > ended_{{ seconds }}._last
    {%- endfor %}
{%- endmacro %}
