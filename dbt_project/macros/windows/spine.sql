{#- Every entity with every window, for zero counts: key, window_start, window_end. The windows have `seconds` and
    start every `slide` seconds (none: tumbling), from the one that holds the first row of `relation` to the one that
    holds the last. Entities are those of the relation `entities` in all windows; without it those seen in `relation`,
    each from its own first window on. Left join the aggregated windows to it and coalesce their counts to 0. -#}
{% macro spine(relation, key, time, seconds, slide=none, entities=none) -%}
    {%- set keys = [key] if key is string else key -%}
    {%- set step = slide or seconds -%}
    (
        select
            {% for column in keys %}seen.{{ column }}, {% endfor -%}
            bounds.first_start + steps.step * interval {{ step }} seconds as window_start,
            bounds.first_start + steps.step * interval {{ step }} seconds + interval {{ seconds }} seconds as window_end
        from (
            select
                min(window_start) as first_start,
                {{ seconds_between('min(window_start)', 'max(window_start)') }} / {{ step }} as last_step
            from {{ hop(relation, time, step, seconds) }} as assigned
        ) as bounds
        cross join {{ numbers_up_to('bounds.last_step') }} as steps
        {%- if entities %}
        cross join (select distinct {{ keys | join(', ') }} from {{ entities }}) as seen
        {%- else %}
        inner join (
            select {{ keys | join(', ') }}, min(window_start) as first_start
            from {{ hop(relation, time, step, seconds) }} as first_seen
            group by {{ keys | join(', ') }}
        ) as seen
            on bounds.first_start + steps.step * interval {{ step }} seconds >= seen.first_start
        {%- endif %}
    )
{%- endmacro %}

{#- The whole numbers from 0 to a column of the relation before. -#}
{% macro numbers_up_to(last) %}{{ return(adapter.dispatch('numbers_up_to')(last)) }}{% endmacro %}
{% macro default__numbers_up_to(last) -%}
    lateral (select unnest(generate_series(0, cast({{ last }} as bigint))) as step)
{%- endmacro %}
{% macro spark__numbers_up_to(last) -%}
    lateral (select explode(sequence(0, cast({{ last }} as bigint))) as step)
{%- endmacro %}
