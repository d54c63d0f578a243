{#- Event-time windows as in streaming SQL. Sizes are whole seconds; windows are aligned to the epoch, start included,
    end excluded. tumble, hop and cumulate return a relation: each row of `relation` (a table or CTE) once for each
    window that contains it, with window_start and window_end. -#}

{#- OVER: `aggregate` over the rows of the same key with time in [t - seconds, t], both ends and equal times
    included. -#}
{% macro over_range(aggregate, key, time, seconds) -%}
    {{ aggregate }} over ({{ over_frame(key, time, seconds) }})
{%- endmacro %}

{#- The inside of its over clause. -#}
{% macro over_frame(key, time, seconds) -%}
    partition by {{ key }} order by {{ time }} range between interval {{ seconds }} seconds preceding and current row
{%- endmacro %}

{#- TUMBLE: each row in one window. -#}
{% macro tumble(relation, time, seconds) -%}
    (
        select
            windowed.*,
            windowed.window_start + interval {{ seconds }} seconds as window_end
        from (
            select rows_in.*, {{ window_floor('rows_in.' ~ time, seconds) }} as window_start
            from {{ relation }} as rows_in
            where rows_in.{{ time }} is not null
        ) as windowed
    )
{%- endmacro %}

{#- HOP: windows of `seconds` that start every `slide` seconds. -#}
{% macro hop(relation, time, slide, seconds) -%}
    {%- set most = (seconds + slide - 1) // slide -%}
    (
        select *
        from (
            select
                rows_in.*,
                {{ window_floor('rows_in.' ~ time, slide) }} - steps.step * interval {{ slide }} seconds as window_start,
                {{ window_floor('rows_in.' ~ time, slide) }} - steps.step * interval {{ slide }} seconds
                + interval {{ seconds }} seconds as window_end
            from {{ relation }} as rows_in
            cross join {{ numbers(0, most - 1) }} as steps
            where rows_in.{{ time }} is not null
        ) as windowed
        where windowed.{{ time }} < windowed.window_end
    )
{%- endmacro %}

{#- CUMULATE: within each window of `seconds`, windows that grow in steps of `step` seconds. -#}
{% macro cumulate(relation, time, step, seconds) -%}
    {%- if seconds % step != 0 -%}
        {{ exceptions.raise_compiler_error("cumulate: `seconds` must be a multiple of `step`") }}
    {%- endif -%}
    (
        select *
        from (
            select
                rows_in.*,
                {{ window_floor('rows_in.' ~ time, seconds) }} as window_start,
                {{ window_floor('rows_in.' ~ time, seconds) }} + steps.step * interval {{ step }} seconds as window_end
            from {{ relation }} as rows_in
            cross join {{ numbers(1, seconds // step) }} as steps
            where rows_in.{{ time }} is not null
        ) as windowed
        where windowed.{{ time }} < windowed.window_end
    )
{%- endmacro %}
