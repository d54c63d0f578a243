{#- count, sum, mean, stddev of one entity over exclusive windows, from exact totals: one row per evaluated row, with
    _row and the features. Totals are integers, so neither the order of rows nor the first row counted changes a digit,
    and deviations do not suffer from cancellation. -#}
{% macro totals(prepared, entity, features, measures, touched) -%}
    {%- set parts = total_parts(features) -%}
    select
        _row
        {%- for feature in features %},
        {{ from_totals(feature, measures[feature.measure].decimals) }} as {{ feature.name }}
        {%- endfor %}
    from (
        {%- if entity.partitions == 'large' %}
        {{ totals_of_large(prepared, entity.key, parts, touched) | indent(8) }}
        {%- else %}
        {{ totals_by_frame(prepared, entity.key, parts, touched) | indent(8) }}
        {%- endif %}
    ) as totals
    where is_evaluated
{%- endmacro %}

{#- The distinct totals that features need, as [total, measure, seconds]: n (rows with the measure), s (its sum),
    q (the sum of its squares). -#}
{% macro total_parts(features) %}
    {{ return(parts_of(features, {'count': ['n'], 'sum': ['n', 's'], 'mean': ['n', 's'], 'stddev': ['n', 's', 'q']})) }}
{% endmacro %}

{#- The same, given `needed`: aggregate name -> its totals. -#}
{% macro parts_of(features, needed) %}
    {%- set parts = [] -%}
    {%- for feature in features -%}
        {%- for total in needed[feature.aggregate] if [total, feature.measure, feature.seconds] not in parts -%}
            {%- do parts.append([total, feature.measure, feature.seconds]) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(parts) }}
{% endmacro %}

{#- A total as an aggregate. -#}
{% macro total_of(total, measure) -%}
    {%- if total == 'n' -%} count(units_of_{{ measure }})
    {%- elif total == 's' -%} sum(units_of_{{ measure }})
    {%- else -%} sum(square_of_{{ measure }})
    {%- endif -%}
{%- endmacro %}

{#- Totals of windows: the running total before t minus that before the first row not before t - window. One cheap sum
    and a lookup for each window; summing each window separately takes 50 % longer. -#}
{% macro totals_by_frame(prepared, key, parts, touched) -%}
    {%- set keys = key | join(', ') -%}
    select
        _row,
        is_evaluated
        {%- for total, measure, seconds in parts %},
        {{ total }}_{{ measure }} - first_value({{ total }}_{{ measure }}) over last_{{ seconds }} as {{ total }}_{{ measure }}_{{ seconds }}
        {%- endfor %}
    from (
        select
            _row,
            is_evaluated,
            {{ keys }},
            _at
            {%- for total, measure in running_parts(parts) %},
            coalesce({{ total_of(total, measure) }} over before, 0) as {{ total }}_{{ measure }}
            {%- endfor %}
        from {{ prepared }}
        where {{ of_entity(prepared, key, touched) }}
        window before as (partition by {{ keys }} order by _at range between unbounded preceding and 1 preceding)
    ) as running
    window
        {%- for seconds in parts | map(attribute=2) | unique %}
        last_{{ seconds }} as (
            partition by {{ keys }} order by _at range between {{ seconds * 1000000 }} preceding and current row
        ){{ ',' if not loop.last }}
        {%- endfor %}
{%- endmacro %}

{#- The distinct [total, measure] of partial aggregates. -#}
{% macro running_parts(parts) %}
    {%- set found = [] -%}
    {%- for total, measure, seconds in parts if [total, measure] not in found -%}
        {%- do found.append([total, measure]) -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}

{#- The same for few keys with very many rows, where finding each row's frame is the main cost: running totals before
    each time, at t minus at the first time not before t - window. -#}
{% macro totals_of_large(prepared, key, parts, touched) %}
    {{ return(adapter.dispatch('totals_of_large')(prepared, key, parts, touched)) }}
{% endmacro %}
{% macro spark__totals_of_large(prepared, key, parts, touched) -%}
    {{ totals_by_frame(prepared, key, parts, touched) }}
{%- endmacro %}
{% macro default__totals_of_large(prepared, key, parts, touched) -%}
    {%- set keys = key | join(', ') -%}
    with by_time as (

        select
            {{ keys }},
            _at
            {%- for total, measure in running_parts(parts) %},
            coalesce({{ total_of(total, measure) }}, 0) as {{ total }}_{{ measure }}
            {%- endfor %}
        from {{ prepared }}
        where {{ of_entity(prepared, key, touched) }}
        group by {{ keys }}, _at

    ),

    -- running over all keys: the other keys cancel out in the difference, so no partitioning is needed
    running as {{ computed_once() }} (

        select
            {{ keys }},
            _at
            {%- for total, measure in running_parts(parts) %},
            sum({{ total }}_{{ measure }}) over up_to - {{ total }}_{{ measure }} as {{ total }}_{{ measure }}
            {%- endfor %}
        from by_time
        window up_to as (order by {{ keys }}, _at rows between unbounded preceding and current row)

    ),

    evaluated as (

        select _row, {{ keys }}, _at
        from {{ prepared }}
        where is_evaluated and {{ of_entity(prepared, key, false) }}

    )

    select
        evaluated._row,
        true as is_evaluated
        {%- for total, measure, seconds in parts %},
        upto.{{ total }}_{{ measure }} - from_{{ seconds }}.{{ total }}_{{ measure }} as {{ total }}_{{ measure }}_{{ seconds }}
        {%- endfor %}
    from evaluated
    inner join running as upto
        on {{ equal_in(key, 'evaluated', 'upto') }}
        and evaluated._at = upto._at
    {%- for seconds in parts | map(attribute=2) | unique %}
    asof inner join running as from_{{ seconds }}
        on {{ equal_in(key, 'evaluated', 'from_' ~ seconds) }}
        and evaluated._at - {{ seconds * 1000000 }} <= from_{{ seconds }}._at
    {%- endfor %}
{%- endmacro %}

{#- A feature from the totals of its window; their columns may have a prefix. -#}
{% macro from_totals(feature, decimals, prefix='') -%}
    {%- set part = feature.measure ~ '_' ~ feature.seconds -%}
    {%- set n, s, q = prefix ~ 'n_' ~ part, prefix ~ 's_' ~ part, prefix ~ 'q_' ~ part -%}
    {%- set unit = 10 ** decimals -%}
    {%- if feature.aggregate == 'count' -%}
        {{ n }}
    {%- elif feature.aggregate == 'sum' -%}
        case when {{ n }} > 0 then cast({{ s }} as double) / {{ unit }} end
    {%- elif feature.aggregate == 'mean' -%}
        case when {{ n }} > 0 then cast({{ s }} as double) / {{ n }} / {{ unit }} end
    {%- else -%}
        {{ exact_deviation(n, s, q) }} / {{ unit }}
    {%- endif -%}
{%- endmacro %}

{#- Sample standard deviation from count, sum and sum of squares of scaled integers. With p the integer nearest to the
    mean, sum (x - p)^2 = q - p (2 s - n p) is computed without rounding, so there is no cancellation. -#}
{% macro exact_deviation(n, s, q) -%}
    {%- set pivot = 'cast(round(cast(' ~ s ~ ' as double) / ' ~ n ~ ') as ' ~ wide_integer() ~ ')' -%}
    case
        when {{ n }} > 1 then sqrt(
            greatest(
                cast({{ q }} - {{ pivot }} * (2 * {{ s }} - {{ n }} * {{ pivot }}) as double)
                - power(cast({{ s }} - {{ n }} * {{ pivot }} as double), 2) / {{ n }},
                0
            ) / ({{ n }} - 1)
        )
    end
{%- endmacro %}
