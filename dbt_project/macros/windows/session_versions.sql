{#- Versions of closed sessions: a model that adds each session of a table of the catalogue when the watermark has passed
    its end, and a new version of it when what it said has changed. As window_versions, whose parts it is made of; but where
    a session begins is told by its rows alone, so a build has to know from where on it tells a key's sessions anew. -#}
{% macro session_versions(table, rows, late_rows) -%}
    {%- set shape = window_shape(table) -%}
    {%- set key, time = shape.key, shape.time -%}
    {%- set columns = payment_columns_for(shape) -%}
    {%- set incremental = is_incremental_build() -%}
    {%- set new_payments = new_rows(rows) -%}
    {%- set new_late = new_rows(late_rows) -%}
    {%- set drops_late = var('late_rows') == 'drop' and (incremental or has_rows(new_late)) -%}
    {%- if incremental -%}
    {%- set seen_times = seen_partition_times(rows, time) -%}
    {%- set watermark_now = window_watermark(all_partition_times(seen_times, new_payments, time)) -%}
    {%- set seen_open = seen_rows(rows, columns, since=[time, session_open_after(shape, seen_times, watermark_now)]) -%}
    {%- set resumed = session_resumed(shape, rows, seen_open, new_payments, new_late if drops_late else none) -%}
    {#- sessions told before of the keys that change: all that were, where rows come to lie among them -#}
    {%- set told_since = 'select case when bool_or(is_among) then ' ~ no_time() ~ ' else min(first_start) end from (' ~ resumed ~ ') as resumed' -%}
    {%- set told = newest_windows_of(shape, stored_windows(shape, told_since)) -%}
    {%- set begun = session_begun(shape, resumed, told) -%}
    {%- set oldest_start = 'select min(first_start) from (' ~ begun ~ ') as begun' -%}
    {%- endif -%}

with new_transactions as (

    select {{ columns | join(', ') }} from {{ new_payments }}

),

{{ late_ids(shape, new_late, late_rows, oldest_start) }},

watermark as (

    {{ watermark_now if incremental else window_watermark(partition_times(new_payments, time)) }}

),
{% if incremental %}
begun as {{ computed_once() }} (

    {{ begun }}

),

transactions as (

    select * from new_transactions

    union all

    select {{ columns | join(', ') }}
    from {{ seen_rows(rows, columns, since=[time, oldest_start]) }}

),
{% endif %}
counted as (

    select transactions.*
    from {{ 'transactions' if incremental else 'new_transactions as transactions' }}
    {%- if incremental %}
    inner join begun
        on {{ same_in(key, 'transactions', 'begun') }}
        and transactions.{{ time }} >= begun.first_start
    {%- endif %}
    {%- if drops_late %}
    where not exists (select 1 from late where late.{{ shape.id }} = transactions.{{ shape.id }})
    {%- endif %}

),

windowed as (

    select * from {{ windows_of(shape, 'counted') }}

),

{{ closed_windows(shape, false) }},
{% if incremental %}
stored as (

    select told.*
    from ({{ told }}) as told
    inner join begun
        on {{ same_in(key, 'told', 'begun') }}
        and told.window_start >= begun.first_start

),

{{ changed_windows(
    shape, 'not exists (select 1 from closed where ' ~ same_in(shape.identity, 'closed', 'stored') ~ ')'
) }}
{%- else %}
versions as (

    select closed.*, 1 as version, current_timestamp as known_at, false as is_deleted from closed

)
{%- endif %}

select * from versions
{%- endmacro %}

{#- A moment before all others. -#}
{% macro no_time() %}{{ return("timestamp '0001-01-02 00:00:00'") }}{% endmacro %}

{#- Rows after it may belong to sessions that were open before this build, or are open again. -#}
{% macro session_open_after(shape, seen_times, watermark_now) -%}
    select coalesce(
        least(
            (select seen.watermark from ({{ window_watermark(seen_times) }}) as seen),
            (select by_now.watermark from ({{ watermark_now }}) as by_now)
        ),
        {{ no_time() }}
    ) - interval {{ shape.seconds }} seconds as open_after
{%- endmacro %}

{#- The keys that may change: first_time of a row that may change something; is_among: whether it comes before the end of
    the last session told; else first_start: from where on nothing has been told. -#}
{% macro session_resumed(shape, rows, seen_open, new_payments, dropped) -%}
    {%- set key, time = shape.key, shape.time -%}
    {%- set columns = {} -%}
    {%- for name in key -%}{%- do columns.update({name: name}) -%}{%- endfor -%}
    {%- set ends = seen_totals(
        this, key=key, columns=dict(columns, last_end='window_end'), totals={'last_end': 'max(last_end)'}
    ) -%}
    {%- set firsts = seen_totals(
        rows, key=key, columns=dict(columns, first_row=time), totals={'first_row': 'min(first_row)'}
    ) -%}
    select
        touched.*,
        coalesce(touched.first_time < ends.last_end, false) as is_among,
        coalesce(ends.last_end, least(firsts.first_row, touched.first_time)) as first_start
    from (
        select {{ key | join(', ') }}, min({{ time }}) as first_time
        from (
            select {{ key | join(', ') }}, {{ time }} from {{ seen_open }}
            union all
            select {{ key | join(', ') }}, {{ time }}
            from {{ new_payments }}
            where {{ time }} is not null
                {%- if dropped %}
                and {{ shape.id }} not in (select {{ shape.id }} from {{ dropped }})
                {%- endif %}
        ) as changing
        group by {{ key | join(', ') }}
    ) as touched
    left join {{ ends }} as ends on {{ same_in(key, 'touched', 'ends') }}
    left join {{ firsts }} as firsts on {{ same_in(key, 'touched', 'firsts') }}
{%- endmacro %}

{#- The same keys with first_start: where the session begins that was told of a row's time, or where the one before it
    ended. What was withdrawn bounds sessions as well: its rows are still there. -#}
{% macro session_begun(shape, resumed, told) -%}
    select
        resumed.{{ shape.key | join(', resumed.') }},
        coalesce(
            max(
                case
                    when not resumed.is_among then resumed.first_start
                    when told.window_end > resumed.first_time then told.window_start
                    else told.window_end
                end
            ),
            {{ no_time() }}
        ) as first_start
    from ({{ resumed }}) as resumed
    left join ({{ told }}) as told
        on resumed.is_among
        and {{ same_in(shape.key, 'resumed', 'told') }}
        and told.window_start <= resumed.first_time
        and told.recency = 1
    group by resumed.{{ shape.key | join(', resumed.') }}
{%- endmacro %}
