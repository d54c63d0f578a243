{#- Features of a measure that is known only some time after its row (a label): `delay` of the measure in the catalogue
    names the var <delay>_seconds. At t the values of rows of time p in [t - delay - window, t - delay) count: those
    that became known, at p + delay, in [t - window, t). -#}

{#- Seconds after its time from which a feature sees a row; 0: at once. -#}
{% macro delay_seconds(feature) %}
    {{ return(var(feature.delay ~ '_seconds') if feature.delay else 0) }}
{% endmacro %}

{#- count, sum and mean of delayed measures of one entity: _row and the features for every evaluated row whose key is
    complete. What had become known by t, less what had by t - window: one running total, looked up twice. -#}
{% macro delayed_block(prepared, entity, features, measures, touched) -%}
    {%- set key = entity.key | join(', ') -%}
    {%- set names = features | map(attribute='measure') | unique | list -%}
    {%- set ends = [] -%}
    {%- for feature in features -%}
        {%- for end in [delay_seconds(feature), delay_seconds(feature) + feature.seconds] if end not in ends -%}
            {%- do ends.append(end) -%}
        {%- endfor -%}
    {%- endfor -%}
    select
        _row
        {%- for feature in features %},
        {{ from_known(feature, measures[feature.measure].decimals) }} as {{ feature.name }}
        {%- endfor %}
    from (
        select
            _row,
            is_evaluated
            {%- for end in ends %}
            {%- for name in names %},
            coalesce(last_value(n_{{ name }}) over until_{{ end }}, 0) as n_{{ name }}_{{ end }},
            coalesce(last_value(s_{{ name }}) over until_{{ end }}, 0) as s_{{ name }}_{{ end }}
            {%- endfor %}
            {%- endfor %}
        from (
            select
                _row,
                is_evaluated,
                {{ key }},
                _at
                {%- for name in names %},
                count(units_of_{{ name }}) over up_to as n_{{ name }},
                coalesce(sum(units_of_{{ name }}) over up_to, 0) as s_{{ name }}
                {%- endfor %}
            from {{ prepared }}
            where {{ of_entity(prepared, entity.key, touched) }}
            window up_to as (partition by {{ key }} order by _at range between unbounded preceding and current row)
        ) as running
        window
            {%- for end in ends %}
            until_{{ end }} as (
                partition by {{ key }} order by _at
                range between unbounded preceding and {{ end * 1000000 + 1 }} preceding
            ){{ ',' if not loop.last }}
            {%- endfor %}
    ) as known
    where is_evaluated
{%- endmacro %}

{#- A feature from the totals known at both ends of its window. -#}
{% macro from_known(feature, decimals) -%}
    {%- set begin = feature.measure ~ '_' ~ (delay_seconds(feature) + feature.seconds) -%}
    {%- set end = feature.measure ~ '_' ~ delay_seconds(feature) -%}
    {%- set unit = 10 ** decimals -%}
    {%- if feature.aggregate == 'count' -%}
        n_{{ end }} - n_{{ begin }}
    {%- else -%}
        case
            when n_{{ end }} > n_{{ begin }}
                then cast(s_{{ end }} - s_{{ begin }} as double)
                {{- ' / (n_' ~ end ~ ' - n_' ~ begin ~ ')' if feature.aggregate == 'mean' }} / {{ unit }}
        end
    {%- endif -%}
{%- endmacro %}
