{#- Versions of closed windows: a model that adds each window of a table of the catalogue when the watermark has passed
    its end, and a new version of it when what it said has changed. -#}

{#- The model of a table of tumbling, hopping or cumulating windows. rows: the source's rows, with _topic, _partition and
    _ingested_at; late_rows: those of them whose windows were closed before they came. What is known of rows seen before
    lies in memory; tables of the same key and measures share it. -#}
{% macro window_versions(table, rows, late_rows) -%}
    {%- set shape = window_shape(table) -%}
    {%- set columns = payment_columns_for(shape) -%}
    {%- set incremental = is_incremental_build() -%}
    {%- set new_payments = new_rows(rows) -%}
    {%- set new_late = new_rows(late_rows) -%}
    {#- looking for each payment among the late ones takes a third of a full build, and mostly there are none -#}
    {%- set drops_late = var('late_rows') == 'drop' and (incremental or has_rows(new_late)) -%}
    {%- if incremental %}
    {%- set seen_times = seen_partition_times(rows, shape.time) -%}
    {%- set seen_ends = seen_totals(
        this, key=[], columns={'newest_end': 'window_end'}, totals={'newest_end': 'max(newest_end)'}
    ) -%}
    {#- windows that end later are not emitted yet: those that the rows seen before have not closed -#}
    {%- set emitted_until -%}
        select case
            when (select max(newest_end) from {{ seen_ends }}) is null then {{ no_time() }}
            else least(
                (select max(newest_end) from {{ seen_ends }}),
                (select seen.watermark from ({{ window_watermark(seen_times) }}) as seen)
            )
        end as newest_end
    {%- endset -%}
    {#- the start of the oldest window that may change -#}
    {%- set oldest_start -%}
        select least(
            (select {{ first_start_after(shape, 'emitted.newest_end') }} from ({{ emitted_until }}) as emitted),
            (
                select min({{ first_start_after(shape, 'payments.' ~ shape.time) }})
                from {{ new_payments }} as payments
                {%- if drops_late %}
                where payments.{{ shape.id }} not in (select {{ shape.id }} from {{ new_late }})
                {%- endif %}
            )
        )
    {%- endset -%}
    {%- set watermark_now = window_watermark(all_partition_times(seen_times, new_payments, shape.time)) -%}
    {%- endif -%}

with new_transactions as (

    select {{ columns | join(', ') }}, _topic, _partition, _ingested_at from {{ new_payments }}

),

{{ late_ids(shape, new_late, late_rows, oldest_start) }},

watermark as (

    {{ watermark_now if incremental else window_watermark(partition_times(new_payments, shape.time)) }}

),
{% if incremental %}
emitted as (

    {{ emitted_until }}

),

transactions as (

    select {{ columns | join(', ') }} from new_transactions

    union all

    select {{ columns | join(', ') }}
    from {{ seen_rows(rows, columns, since=[shape.time, oldest_start]) }}

),

reopened as (

    select distinct windowed.{{ (['window_start', 'window_end'] + shape.key) | join(', windowed.') }}
    from {{ windows_of(shape, 'new_transactions') }} as windowed
    cross join emitted
    where windowed.window_end <= emitted.newest_end
        {%- if drops_late %}
        and windowed.{{ shape.id }} not in (select {{ shape.id }} from late)
        {%- endif %}

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
{{ closed_windows(shape, drops_late) }},
{% if incremental %}
stored as (

    {{ newest_windows_of(shape, stored_windows(shape, 'select least((' ~ oldest_start ~ '), (' ~ watermark_now ~ '))')) }}

),

{{ changed_windows(shape, 'stored.window_end > watermark.watermark') }}
{%- else %}
versions as (

    select closed.*, 1 as version, current_timestamp as known_at, false as is_deleted from closed

)
{%- endif %}

select * from versions
{%- endmacro %}

{#- The CTE `late`: ids of the rows that came too late for their window, new ones and those seen before. -#}
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

{#- The CTE `closed`: the windows of `windowed` that the watermark has passed, with their features. -#}
{% macro closed_windows(shape, drops_late) -%}
    {#- where an end follows from the start, it need not be looked at to group -#}
    {%- set told_by_start = shape.past in ('tumble', 'hop') -%}
    {%- set by = (['window_start'] if told_by_start else ['window_start', 'window_end']) + shape.key -%}
    {%- set window_end = 'summed.window_start + interval ' ~ shape.seconds ~ ' seconds' if told_by_start else 'summed.window_end' -%}
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

),

closed as (

    select
        summed.window_start,
        {{ window_end }} as window_end,
        summed.{{ shape.key | join(', summed.') }}
        {%- for feature in shape.features %},
        summed.{{ feature.name }}
        {%- endfor %}
    from summed
    cross join watermark
    where {{ window_end }} <= watermark.watermark

)
{%- endmacro %}

{#- What was told of windows that end at a moment or later, all versions: more than memory holds where windows overlap,
    and looked at only when some may change. -#}
{% macro stored_windows(shape, least_end) %}
    {%- set columns = {} -%}
    {%- for name in ['window_start', 'window_end'] + shape.key + (shape.features | map(attribute='name') | list) + ['version', 'is_deleted'] -%}
        {%- do columns.update({name: name}) -%}
    {%- endfor -%}
    {{ return(seen_rows(this, columns, since=['window_end', least_end], is_kept=false)) }}
{% endmacro %}

{#- The same with the newest version of each window as recency 1. -#}
{% macro newest_windows_of(shape, stored) -%}
    select
        versions.*,
        row_number() over (
            partition by versions.{{ shape.identity | join(', versions.') }} order by versions.version desc
        ) as recency
    from {{ stored }} as versions
{%- endmacro %}

{#- The CTE `versions`: windows of `closed` of which `stored` says something else or nothing, and those it says something
    of that are `gone` (SQL over stored and watermark). -#}
{% macro changed_windows(shape, gone) -%}
    {%- set told = ['window_start', 'window_end'] + shape.key + (shape.features | map(attribute='name') | list) -%}
versions as (

    select
        closed.{{ told | join(',\n        closed.') }},
        coalesce(stored.version, 0) + 1 as version,
        current_timestamp as known_at,
        false as is_deleted
    from closed
    left join stored
        on {{ same_in(shape.identity, 'closed', 'stored') }}
        and stored.recency = 1
    where stored.version is null
        or stored.is_deleted
        or closed.window_end <> stored.window_end
        or {{ features_differ(shape.features, 'closed', 'stored') }}

    union all

    select
        stored.{{ told | join(',\n        stored.') }},
        stored.version + 1 as version,
        current_timestamp as known_at,
        true as is_deleted
    from stored
    cross join watermark
    where stored.recency = 1 and not stored.is_deleted and {{ gone }}

)
{%- endmacro %}

{#- The model of the newest versions of a table of windows: what `versions` (its model of versions) says by now. -#}
{% macro newest_windows(table, versions) -%}
    {%- set shape = window_shape(table) -%}
    {%- set new = new_rows(versions) -%}
    {%- set columns = ['window_start', 'window_end'] + shape.key + (shape.features | map(attribute='name') | list) -%}
    {%- set corrects = is_incremental_build() or has_rows(new, 'version > 1') -%}
    {%- if not corrects -%}
        {%- do take_files_of(versions) -%}
    {%- endif -%}

with new_versions as (

    select * from {{ new }}

),

newest as (

    {{ merge_of_versions('new_versions', shape.identity, columns, corrects, deletions=true) | indent(4) }}

)

select * from newest
{%- endmacro %}
