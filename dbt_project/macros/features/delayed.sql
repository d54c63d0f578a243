{#- Features of a measure that is known only some time after its row (a label): `delay` of the measure in the catalogue
    names the var <delay>_seconds. At t, rows with time p in [t - delay - window, t - delay) count: their values became
    known, at p + delay, in [t - window, t). -#}

{#- Seconds after a row's time until a feature (or a measure, of a stream) counts it; 0: at once. -#}
{% macro delay_seconds(feature, stream=none) %}
    {{ return(limit_of(stream or setting('streams').get(feature.stream), feature.delay ~ '_seconds') if feature.delay else 0) }}
{% endmacro %}

{#- count, sum and mean of delayed measures of one entity: _row and the features for every evaluated row whose key is
    complete. The total known by t minus the total known by t - window: one running total, looked up twice. -#}
{% macro delayed_block(prepared, entity, features, measures, touched) -%}
    {%- set names = features | map(attribute='measure') | unique | list -%}
    {%- set ends, delays = [], {} -%}
    {%- for feature in features -%}
        {%- do delays.update({feature.measure: delay_seconds(feature)}) -%}
        {%- for end in [delay_seconds(feature), delay_seconds(feature) + feature.seconds] if end not in ends -%}
            {%- do ends.append(end) -%}
        {%- endfor -%}
    {%- endfor -%}
    select
        _row
        {%- for feature in features %},
        {{ from_totals(feature, measures[feature.measure].decimals) }} as {{ feature.name }}
        {%- endfor %}
    from (
        select
            _row
            {%- for total, measure, seconds in total_parts(features) %},
            {%- set known = total ~ '_' ~ measure ~ '_until_' %}
            {{ known }}{{ delays[measure] }} - {{ known }}{{ delays[measure] + seconds }} as {{ total }}_{{ measure }}_{{ seconds }}
            {%- endfor %}
        from (
            {%- if entity.partitions == 'large' %}
            {{ known_of_large(prepared, entity.key, names, ends, touched) | indent(12) }}
            {%- else %}
            {{ known_by_frame(prepared, entity.key, names, ends, touched) | indent(12) }}
            {%- endif %}
        ) as known
        where is_evaluated
    ) as totals
{%- endmacro %}

{#- n (rows with the measure) and s (its sum as scaled integers) of the measures `names`, over rows more than `ends`
    seconds before t, for each of `ends`. -#}
{% macro known_by_frame(prepared, key, names, ends, touched) -%}
    {%- set keys = key | join(', ') -%}
    select
        _row,
        is_evaluated
        {%- for end in ends %}
        {%- for name in names %},
        coalesce(last_value(n_{{ name }}) over until_{{ end }}, 0) as n_{{ name }}_until_{{ end }},
        coalesce(last_value(s_{{ name }}) over until_{{ end }}, 0) as s_{{ name }}_until_{{ end }}
        {%- endfor %}
        {%- endfor %}
    from (
        select
            _row,
            is_evaluated,
            {{ keys }},
            _at
            {%- for name in names %},
            count(units_of_{{ name }}) over up_to as n_{{ name }},
            coalesce(sum(units_of_{{ name }}) over up_to, 0) as s_{{ name }}
            {%- endfor %}
        from {{ prepared }}
        where {{ of_entity(prepared, key, touched) }}
        window up_to as (partition by {{ keys }} order by _at range between unbounded preceding and current row)
    ) as running
    window
        {%- for end in ends %}
        until_{{ end }} as (
            partition by {{ keys }} order by _at range between unbounded preceding and {{ end * 1000000 + 1 }} preceding
        ){{ ',' if not loop.last }}
        {%- endfor %}
{%- endmacro %}

{#- The same for few keys with very many rows, where finding each row's frame is the main cost. -#}
{% macro known_of_large(prepared, key, names, ends, touched) %}
    {{ return(adapter.dispatch('known_of_large')(prepared, key, names, ends, touched)) }}
{% endmacro %}
{% macro spark__known_of_large(prepared, key, names, ends, touched) -%}
    {{ known_by_frame(prepared, key, names, ends, touched) }}
{%- endmacro %}
{% macro default__known_of_large(prepared, key, names, ends, touched) -%}
    {%- set keys = key | join(', ') -%}
    with by_time as (

        select
            {{ keys }},
            _at
            {%- for name in names %},
            count(units_of_{{ name }}) as n_{{ name }},
            coalesce(sum(units_of_{{ name }}), 0) as s_{{ name }}
            {%- endfor %}
        from {{ prepared }}
        where {{ of_entity(prepared, key, touched) }}
        group by {{ keys }}, _at

    ),

    running as {{ computed_once() }} (

        select
            {{ keys }},
            _at
            {%- for name in names %},
            sum(n_{{ name }}) over up_to as n_{{ name }},
            sum(s_{{ name }}) over up_to as s_{{ name }}
            {%- endfor %}
        from by_time
        window up_to as (partition by {{ keys }} order by _at rows between unbounded preceding and current row)

    ),

    evaluated as (

        select _row, {{ keys }}, _at
        from {{ prepared }}
        where is_evaluated and {{ of_entity(prepared, key, false) }}

    )

    select
        evaluated._row,
        true as is_evaluated
        {%- for end in ends %}
        {%- for name in names %},
        coalesce(until_{{ end }}.n_{{ name }}, 0) as n_{{ name }}_until_{{ end }},
        coalesce(until_{{ end }}.s_{{ name }}, 0) as s_{{ name }}_until_{{ end }}
        {%- endfor %}
        {%- endfor %}
    from evaluated
    {%- for end in ends %}
    asof left join running as until_{{ end }}
        on {{ equal_in(key, 'evaluated', 'until_' ~ end) }}
        and evaluated._at - {{ end * 1000000 }} > until_{{ end }}._at
    {%- endfor %}
{%- endmacro %}
