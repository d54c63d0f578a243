{#- SESSION: the rows of `relation` with window_start and window_end added. A session has
    rows of one key (a column, or a list), each less than `gap` seconds after the one before. It ends `gap` seconds
    after its last row, end excluded, so a row exactly there begins the next session. Rows without time are
    excluded. -#}
{% macro session(relation, key, time, gap) -%}
    {%- set keys = ([key] if key is string else key) | join(', ') -%}
    (
        select
            sessions.* {{ without(['_begins', '_session']) }},
            min({{ time }}) over (partition by {{ keys }}, _session) as window_start,
            max({{ time }}) over (partition by {{ keys }}, _session) + interval {{ gap }} seconds as window_end
        from (
            select
                begun.*,
                sum(_begins) over (
                    partition by {{ keys }} order by {{ time }} range between unbounded preceding and current row
                ) as _session
            from (
                select
                    rows_in.*,
                    case
                        when lag({{ time }}) over (partition by {{ keys }} order by {{ time }})
                            > {{ time }} - interval {{ gap }} seconds then 0
                        else 1
                    end as _begins
                from {{ relation }} as rows_in
                where rows_in.{{ time }} is not null
            ) as begun
        ) as sessions
    )
{%- endmacro %}

{#- After a star: all columns but these. -#}
{% macro without(columns) %}{{ return(adapter.dispatch('without')(columns)) }}{% endmacro %}
{% macro default__without(columns) %}exclude ({{ columns | join(', ') }}){% endmacro %}
{% macro spark__without(columns) %}except ({{ columns | join(', ') }}){% endmacro %}
