{#- Versions of closed windows: a model that adds each window of a table of the catalogue when the watermark has passed
    its end, and a new version when its values have changed. -#}

{#- The model of a table of tumbling, hopping or cumulating windows. rows: the stream's rows, with _topic, _partition
    and _ingested_at; late_rows: those whose windows were closed before they arrived. in_memory: whether previously read
    rows are cached in memory, for the fast path, whose models share them; otherwise the relevant files are read. -#}
{% macro window_versions(table, rows, late_rows, in_memory=false) -%}
    {%- set shape = window_shape(table) -%}
    {%- set columns = event_columns_for(shape.stream, shape.features, shape.key) -%}
    {%- set incremental = is_incremental_build() -%}
    {%- set new_payments = counted_events(shape.stream, new_rows(rows)) -%}
    {%- set observed = observations(incremental) -%}
    {%- set new_late = new_rows(late_rows) -%}
    {%- set drops_late = setting('late_rows') == 'drop' -%}
    {%- if incremental %}
    {%- set seen_times = seen_partition_times(rows, shape.time) -%}
    {%- set seen_ends = seen_totals(
        this, key=[], columns={'newest_end': 'window_end'}, totals={'newest_end': 'max(newest_end)'}
    ) -%}
    {#- windows that end later are not emitted yet: the previously read rows have not closed them -#}
    {%- set emitted_until -%}
        select case
            when (select max(newest_end) from {{ seen_ends }}) is null then {{ no_time() }}
            else least(
                (select max(newest_end) from {{ seen_ends }}),
                (select seen.watermark from ({{ window_watermark(shape.stream, seen_times) }}) as seen)
            )
        end as newest_end
    {%- endset -%}
    {%- set watermark_now = window_watermark(shape.stream, all_partition_times(seen_times, new_payments, shape.time), observed) -%}
    {#- the start of the oldest window that may change; null: none is due, and no row is in an emitted one -#}
    {%- set oldest_start -%}
        select least(
            case
                when {{ last_end_by(shape, 'by_now.watermark') }} > emitted.newest_end
                    then {{ first_start_after(shape, 'emitted.newest_end') }}
            end,
            (
                select min({{ first_start_after(shape, 'changed.' ~ shape.time) }})
                from {{ changed_rows(shape, new_payments, new_late) }} as changed
                where changed.{{ shape.time }} < emitted.newest_end
            )
        )
        from ({{ emitted_until }}) as emitted
        cross join ({{ watermark_now }}) as by_now
    {%- endset -%}
    {%- endif -%}

with new_transactions as (

    select {{ columns | join(', ') }}, _topic, _partition, _ingested_at from {{ new_payments }}

),

{{ late_ids(shape, new_late, late_rows, oldest_start) }},

watermark as (

    {{ watermark_now if incremental else window_watermark(shape.stream, partition_times(new_payments, shape.time), observed) }}

),
{% if incremental %}
emitted as (

    {{ emitted_until }}

),

transactions as (

    select {{ columns | join(', ') }} from new_transactions

    union all

    select {{ columns | join(', ') }}
    from {{ counted_events(shape.stream, seen_rows(rows, columns, since=[shape.time, oldest_start], is_kept=in_memory)) }}

),

changed as (

    select {{ (shape.key + [shape.time]) | join(', ') }}
    from {{ 'new_transactions' if in_memory else 'transactions' }}
    where {{ shape.id }} in (select {{ shape.id }} from {{ changed_rows(shape, new_payments, new_late) }} as changed)

),

reopened as (

    select distinct windowed.{{ (['window_start', 'window_end'] + shape.key) | join(', windowed.') }}
    from {{ windows_of(shape, 'changed') }} as windowed
    cross join emitted
    where windowed.window_end <= emitted.newest_end

),

due as (

    select transactions.*
    from transactions
    cross join emitted
    cross join watermark
    where transactions.{{ shape.time }} >= {{ first_start_after(shape, 'emitted.newest_end') }}
        and transactions.{{ shape.time }} < {{ last_end_by(shape, 'watermark.watermark') }}
        and {{ last_end_by(shape, 'watermark.watermark') }} > emitted.newest_end

),

windowed as (

    select due_windows.*
    from {{ windows_of(shape, 'due') }} as due_windows
    cross join emitted
    where due_windows.window_end > emitted.newest_end

    union all

    select transactions.*, reopened.window_start, reopened.window_end
    from transactions
    inner join reopened
        on {{ same_in(shape.key, 'transactions', 'reopened') }}
        and transactions.{{ shape.time }} >= reopened.window_start
        and transactions.{{ shape.time }} < reopened.window_end

),
{% else %}
windowed as (

    select * from {{ windows_of(shape, 'new_transactions') }}

),
{% endif %}
{{ summed_windows(shape, drops_late) }},

{{ closed_windows(shape) }},
{% if incremental %}
stored as (

    {{ newest_windows_of(
        shape, stored_windows(shape, 'select least((' ~ oldest_start ~ '), (' ~ watermark_now ~ '))', in_memory)
    ) }}

),

{{ changed_windows(shape) }}
{%- else %}
versions as (

    select closed.*, 1 as version, current_timestamp as known_at, false as is_deleted from closed

)
{%- endif %}

select * from versions
{%- endmacro %}

{#- Id and time of rows that may change emitted windows: new ones that count, and those of late_only_now. -#}
{% macro changed_rows(shape, new_payments, new_late) -%}
    (
        select {{ shape.id }}, {{ shape.time }}
        from {{ new_payments }}
        {%- if setting('late_rows') == 'drop' %}
        where {{ shape.id }} not in (select {{ shape.id }} from {{ new_late }})
        union all
        {{ late_only_now(shape, new_payments, new_late) }}
        {%- endif %}
    )
{%- endmacro %}

{#- Rows that were found to be late after they had been read: a reader between two commits of the fast path sees a row
    before its lateness, and counts it. -#}
{% macro late_only_now(shape, new_payments, new_late) -%}
    select {{ shape.id }}, {{ shape.time }}
    from {{ new_late }}
    where {{ shape.id }} not in (select {{ shape.id }} from {{ new_payments }})
{%- endmacro %}

{#- The CTE `late`: ids of the rows that are too late for their window, new and previously read ones. -#}
{% macro late_ids(shape, new_late, late_rows, oldest_start) -%}
late as (

    select {{ shape.id }} from {{ new_late }}
    {%- if is_incremental_build() %}

    union all

    select {{ shape.id }}
    from {{ seen_rows(late_rows, {shape.id: shape.id, 'window_end': 'window_end'}, since=['window_end', oldest_start]) }}
    {%- endif %}

)
{%- endmacro %}

{#- The CTE `summed`: the windows of `windowed` with their features. -#}
{% macro summed_windows(shape, drops_late=false) -%}
    {#- if the start determines the end, grouping does not need it -#}
    {%- set by = (['window_start'] if is_told_by_start(shape) else ['window_start', 'window_end']) + shape.key -%}
summed as (

    select
        windowed.{{ by | join(', windowed.') }}
        {%- for feature in shape.features %},
        {{ feature_of_rows(feature) }} as {{ feature.name }}
        {%- endfor %}
    from windowed
    {%- if drops_late %}
    where not exists (select 1 from late where late.{{ shape.id }} = windowed.{{ shape.id }})
    {%- endif %}
    group by windowed.{{ by | join(', windowed.') }}

)
{%- endmacro %}

{#- Whether all windows of this kind have the same length. -#}
{% macro is_told_by_start(shape) %}{{ return(shape.past in ('tumble', 'hop')) }}{% endmacro %}

{#- The CTE `closed`: those of `summed` that the watermark has passed. -#}
{% macro closed_windows(shape) -%}
    {%- set length = 'interval ' ~ shape.seconds ~ ' seconds' -%}
    {%- set window_end = 'summed.window_start + ' ~ length if is_told_by_start(shape) else 'summed.window_end' -%}
closed as (

    select
        summed.window_start,
        {{ window_end }} as window_end,
        summed.{{ shape.key | join(', summed.') }}
        {%- for feature in shape.features %},
        summed.{{ feature.name }}
        {%- endfor %}
    from summed
    where {{ window_end }} <= (select watermark.watermark from watermark)

)
{%- endmacro %}

{#- All emitted versions of windows that end at a moment or later. -#}
{% macro stored_windows(shape, least_end, in_memory=false) %}
    {%- set columns = {} -%}
    {%- for name in window_columns(shape) + ['version', 'is_deleted'] + (['is_open'] if shape.past == 'session' else []) -%}
        {%- do columns.update({name: name}) -%}
    {%- endfor -%}
    {{ return(seen_rows(this, columns, since=['window_end', least_end], is_kept=in_memory)) }}
{% endmacro %}

{#- The columns that identify a window, and its values. -#}
{% macro window_columns(shape) %}
    {{ return(['window_start', 'window_end'] + shape.key + (shape.features | map(attribute='name') | list)) }}
{% endmacro %}

{#- The newest version of each of these windows. -#}
{% macro newest_windows_of(shape, stored) -%}
    select *
    from (
        select
            versions.*,
            row_number() over (
                partition by versions.{{ shape.identity | join(', versions.') }} order by versions.version desc
            ) as recency
        from {{ stored }} as versions
    ) as by_recency
    where recency = 1
{%- endmacro %}

{#- The CTE `versions`: windows of `closed` that are missing or different in `stored`, and windows of `stored` that are
    open again or have no rows now. -#}
{% macro changed_windows(shape) -%}
versions as (

    select
        closed.{{ window_columns(shape) | join(',\n        closed.') }},
        coalesce(stored.version, 0) + 1 as version,
        current_timestamp as known_at,
        false as is_deleted
    from closed
    left join stored on {{ same_in(shape.identity, 'closed', 'stored') }}
    where stored.version is null
        or stored.is_deleted
        or {{ features_differ(shape.features, 'closed', 'stored') }}

    union all

    select
        stored.{{ window_columns(shape) | join(',\n        stored.') }},
        stored.version + 1 as version,
        current_timestamp as known_at,
        true as is_deleted
    from stored
    cross join watermark
    where not stored.is_deleted
        and (
            stored.window_end > watermark.watermark
            or (
                exists (select 1 from reopened where {{ same_in(shape.identity, 'reopened', 'stored') }})
                and not exists (select 1 from closed where {{ same_in(shape.identity, 'closed', 'stored') }})
            )
        )

)
{%- endmacro %}

{#- The model of the newest versions of a table of windows, from `versions` (its model of versions). -#}
{% macro newest_windows(table, versions) -%}
    {%- set shape = window_shape(table) -%}
    {%- set new = new_rows(versions) -%}

with new_versions as (

    select * from {{ new }}

),

newest as (

    {#- the first version of a session may be an open one, which is not included here #}
    {{ merge_of_versions(
        'new_versions', shape.identity, window_columns(shape), deletions=true, opens=shape.past == 'session'
    ) | indent(4) }}

)

select * from newest
{%- endmacro %}
