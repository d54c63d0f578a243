{#- Versions of sessions: a model that emits each session of a table of the catalogue as it grows. Until the watermark
    has passed its end, it is is_open and is_deleted (absent from the table of newest versions). Each change adds a
    version. So every row is in an emitted session, and a new row only changes its neighbours.
    rows, late_rows: as in window_versions. -#}
{% macro session_versions(table, rows, late_rows) -%}
    {%- set shape = window_shape(table) -%}
    {%- set key, time = shape.key, shape.time -%}
    {%- set columns = event_columns_for(shape.stream, shape.features, shape.key) -%}
    {%- set incremental = is_incremental_build() -%}
    {%- set new_payments = counted_events(shape.stream, new_rows(rows)) -%}
    {%- set observed = observations(incremental) -%}
    {%- set new_late = new_rows(late_rows) -%}
    {%- set drops_late = setting('late_rows') == 'drop' -%}
    {%- if incremental -%}
    {%- set seen_times = seen_partition_times(rows, time) -%}
    {%- set watermark_now = window_watermark(shape.stream, all_partition_times(seen_times, new_payments, time), observed) -%}
    {%- set changed = changed_rows(shape, new_payments, new_late) -%}
    {#- the first end of a session that may have changed, or that the watermark has passed since or is now before -#}
    {%- set told_since -%}
        select least(
            (select min({{ time }}) from {{ changed }} as changed),
            (select seen.watermark from ({{ window_watermark(shape.stream, seen_times) }}) as seen),
            (select by_now.watermark from ({{ watermark_now }}) as by_now)
        )
    {%- endset -%}
    {%- set told = newest_windows_of(shape, stored_windows(shape, told_since)) -%}
    {%- set first_late = 'select min(' ~ time ~ ') from (' ~ late_only_now(shape, new_payments, new_late) ~ ') as late' -%}
    {%- set seen_late = counted_events(
        shape.stream, seen_rows(rows, columns, since=[time, first_late], is_kept=false)
    ) if drops_late else none -%}
    {%- set touched -%}
        select {{ key | join(', ') }}, min({{ time }}) as first_time
        from (
            select {{ columns | join(', ') }} from {{ new_payments }}
            {%- if drops_late %}
            union all
            select {{ columns | join(', ') }} from {{ seen_late }}
            {%- endif %}
        ) as known
        where {{ time }} is not null and {{ shape.id }} in (select {{ shape.id }} from {{ changed }} as changed)
        group by {{ key | join(', ') }}
    {%- endset -%}
    {#- for each key that changes: the time from which its sessions are emitted again -#}
    {%- set begun -%}
        select
            touched.{{ key | join(', touched.') }},
            least(min(touched.first_time), min(told.window_start)) as first_start
        from ({{ touched }}) as touched
        left join ({{ told }}) as told
            on {{ same_in(key, 'touched', 'told') }}
            and told.window_start <= touched.first_time
            and told.window_end > touched.first_time
            and (told.is_open or not told.is_deleted)
        group by touched.{{ key | join(', touched.') }}
    {%- endset -%}
    {%- set oldest_start = 'select min(first_start) from (' ~ begun ~ ') as begun' -%}
    {%- endif -%}

with new_transactions as (

    select {{ columns | join(', ') }} from {{ new_payments }} where {{ time }} is not null

),

{{ late_ids(shape, new_late, late_rows, oldest_start) }},

watermark as (

    {{ watermark_now if incremental else window_watermark(shape.stream, partition_times(new_payments, time), observed) }}

),
{% if incremental %}
begun as {{ computed_once() }} (

    {{ begun }}

),

transactions as (

    select * from new_transactions

    union all

    select {{ columns | join(', ') }}
    from {{ counted_events(shape.stream, seen_rows(rows, columns, since=[time, oldest_start], is_kept=false)) }}

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

{{ summed_windows(shape) }},
{% if incremental %}
stored as (

    select told.*, begun.first_start
    from ({{ told }}) as told
    left join begun
        on {{ same_in(key, 'told', 'begun') }}
        and told.window_start >= begun.first_start

),

versions as (

    select
        summed.{{ window_columns(shape) | join(',\n        summed.') }},
        coalesce(stored.version, 0) + 1 as version,
        summed.window_end > watermark.watermark as is_open,
        summed.window_end > watermark.watermark as is_deleted
    from summed
    cross join watermark
    left join stored on {{ same_in(shape.identity, 'summed', 'stored') }}
    where stored.version is null
        or (stored.is_deleted and not stored.is_open)
        or stored.is_open <> (summed.window_end > watermark.watermark)
        or stored.window_end <> summed.window_end
        or {{ features_differ(shape.features, 'summed', 'stored') }}

    union all

    -- those without rows now, and those that only the watermark has closed or reopened
    select
        stored.{{ window_columns(shape) | join(',\n        stored.') }},
        stored.version + 1 as version,
        stored.first_start is null and stored.window_end > watermark.watermark as is_open,
        stored.first_start is not null or stored.window_end > watermark.watermark as is_deleted
    from stored
    cross join watermark
    where (stored.is_open or not stored.is_deleted)
        and case
            when stored.first_start is not null
                then not exists (select 1 from summed where {{ same_in(shape.identity, 'summed', 'stored') }})
            else stored.is_open <> (stored.window_end > watermark.watermark)
        end

)
{%- else -%}
versions as (

    select
        summed.*,
        1 as version,
        summed.window_end > watermark.watermark as is_open,
        summed.window_end > watermark.watermark as is_deleted
    from summed
    cross join watermark

)
{%- endif %}

select versions.*, current_timestamp as known_at from versions
{%- endmacro %}
