{#- Every entity with every window, for zero counts: key, window_start, window_end. The windows have `seconds` and
    start every `slide` seconds (none: tumbling), from the window of the entity's first row in `relation` to that of its
    last. Left join the aggregated windows to it and coalesce their counts to 0. -#}
{% macro spine(relation, key, time, seconds, slide=none) -%}
    {%- set keys = [key] if key is string else key -%}
    {%- set step = slide or seconds -%}
    (
        select
            {% for column in keys %}seen.{{ column }}, {% endfor -%}
            seen.first_start + steps.step * interval {{ step }} seconds as window_start,
            seen.first_start + steps.step * interval {{ step }} seconds + interval {{ seconds }} seconds as window_end
        from (
            select
                {% for column in keys %}{{ column }}, {% endfor -%}
                min(window_start) as first_start,
                {{ seconds_between('min(window_start)', 'max(window_start)') }} / {{ step }} as last_step
            from {{ hop(relation, time, step, seconds) }} as assigned
            group by {{ keys | join(', ') }}
        ) as seen
        cross join {{ numbers_up_to('seen.last_step') }} as steps
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
