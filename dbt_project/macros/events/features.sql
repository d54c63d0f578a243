{#- The model of a stream's fast path: what was known about an event when it arrived, which rules read. What arrives later
    never counts, however far back its event time. `rows`: the stream's rows. -#}
{% macro event_features(name, rows) -%}
{%- set stream = stream_of(name) -%}
{%- if not execute -%}{{ return('') }}{%- endif -%}
{%- set key, time = fast_path_key(stream), stream.time -%}
{%- set keys, is_complete = key | join(', '), key | join(' is not null and ') ~ ' is not null' -%}
{%- set incremental = is_incremental_build() %}
{%- set new_payments = new_rows(rows) %}
{%- set features = features_of(stream.features) %}
{%- set measures = arrival_measures(features) %}
{%- set parts = arrival_parts(features) %}
{%- set all_time = parts | selectattr(2, 'none') | list %}
{%- set reach = part_windows(parts) | max | default(0) %}

with new_transactions as (

    select
        {{ columns_of_arrived(stream, stored=true) }}
        {{- values_of(measures) }}
    from {{ new_payments }}

),

placed as (

    select
        new_transactions.*,
        max({{ time }}) over (
            partition by {{ ingestion_order() }}, _topic, _partition order by _offset
            rows between unbounded preceding and current row
        ) as newest_time
    from new_transactions
    where {{ is_complete }} and {{ time }} is not null and is_time_excluded is not true

),

-- a key's rows in order of arrival: by offset, which no split into batches changes; partitions side by side in event time
evaluated as (

    select
        {{ columns_of_arrived(stream) }}{{ value_names(measures) }},
        row_number() over (
            partition by {{ keys }} order by {{ ingestion_order() }}, newest_time, _topic, _partition, _offset
        ) - 1 as arrival
    from placed

),
{% if incremental %}
touched_keys as (

    select {{ keys }}, min({{ time }}) as first_time
    from evaluated
    group by {{ keys }}

),

earlier as (

    select stored.*
    from (
        select
            {{ keys }}, {{ time }}
            {{- values_of(measures) }}
        from {{ seen_rows(
            rows,
            event_columns_for(stream, features),
            since=[
                stream.time,
                'select min(' ~ stream.time ~ ') - interval ' ~ reach ~ ' seconds from ' ~ new_payments
                    ~ ' where ' ~ is_complete ~ ' and is_time_excluded is not true',
            ],
        ) }} as seen_payments
        where is_time_excluded is not true
    ) as stored
    inner join touched_keys
        on {{ equal_in(key, 'stored', 'touched_keys') }}
        and stored.{{ time }} >= touched_keys.first_time - interval {{ reach }} seconds

),
{% if all_time %}
-- what lies before every window that is looked at counts as one number: all of the key's but the above
older as (

    select
        {%- for column in key %}
        stored.{{ column }} as _older_{{ column }}{{ ',' if not loop.last }}
        {%- endfor %}
        {%- for total, measure, _ in all_time %},
        {%- set name = part_name(total, measure, none) %}
        stored.{{ name }} - coalesce(later.{{ name }}, 0) as {{ name }}
        {%- endfor %}
    from {{ seen_totals(
        rows,
        key=key,
        columns=single_totals(stream, all_time, measures),
        totals=merged_totals(all_time),
        where='is_time_excluded is not true',
    ) }} as stored
    left join (
        select
            {{ keys }}
            {%- for total, measure, _ in all_time %},
            {%- set value = 'value_of_' ~ measure if measure else '*' %}
            {{ 'count' if total == 'n' else 'sum' }}({{ value }}) as {{ part_name(total, measure, none) }}
            {%- endfor %}
        from earlier
        group by {{ keys }}
    ) as later
        on {{ equal_in(key, 'stored', 'later') }}
    where (stored.{{ key | join(', stored.') }}) in (select {{ as_one_value(key) }} from touched_keys)

),
{% endif %}
{%- endif %}
arrivals as (

    select
        {{ keys }},
        {{ time }},
        max({{ time }}) over (
            partition by {{ keys }} order by arrival rows between unbounded preceding and 1 preceding
        ) as newest_time
    from evaluated

),

-- keys of whom something arrived later but lies before what had arrived already
disordered_keys as (

    select distinct {{ keys }} from arrivals where {{ time }} < newest_time

),

in_order as (

    select evaluated.*, true as is_counted, true as is_evaluated, 0 as part, 0 as block
    from evaluated
    where ({{ keys }}) not in (select {{ as_one_value(key) }} from disordered_keys)
    {%- if incremental %}

    union all

    select {{ columns_of_counted(stream, measures) }}, true as is_counted, false as is_evaluated, 0 as part, 0 as block
    from earlier
    where ({{ keys }}) not in (select {{ as_one_value(key) }} from disordered_keys)
    {%- endif %}

),

disordered as (

    select evaluated.* from evaluated where ({{ keys }}) in (select {{ as_one_value(key) }} from disordered_keys)

),

{{ arrived_by_then(stream, 'disordered', 'earlier' if incremental else none, measures) }},

measured_in_order as (

    select {{ past_measures(stream, parts, in_order=true) }}
    from in_order
    {{ past_windows(stream, parts) }}

),

measured_parts as (

    select {{ past_measures(stream, parts) }}
    from arrived_by_then
    {{ past_windows(stream, parts) }}

),

measured as (

    select
        {{ columns_of_arrived(stream) }}
        {{- part_columns(parts) }}
    from measured_in_order
    where is_evaluated

    union all

    select
        {{ columns_of_arrived(stream) }}
        {%- for part in parts %},
        sum({{ part_name(*part) }}) as {{ part_name(*part) }}
        {%- endfor %}
    from measured_parts
    where is_evaluated
    group by {{ columns_of_arrived(stream) }}

    union all

    -- without a key or a time it counts itself alone; with a time that is excluded not even itself
    select
        {{ columns_of_arrived(stream) }}
        {%- for total, measure, seconds in parts %},
        {%- set value = 'value_of_' ~ measure if measure else '1' %}
        {% if seconds is none -%}
        {{ '0' if total == 'n' else 'null' }}
        {%- else -%}
        {{ 'case when is_time_excluded or ' ~ value ~ ' is null then 0 else 1 end' if total == 'n'
            else 'case when is_time_excluded is not true then ' ~ value ~ ' end' }}
        {%- endif %} as {{ part_name(total, measure, seconds) }}
        {%- endfor %}
    from new_transactions
    where not ({{ is_complete }}) or {{ time }} is null or is_time_excluded

),

{% if incremental and all_time -%}
known as (

    select
        {{ columns_of_arrived(stream) }}
        {%- for total, measure, seconds in parts %},
        {%- set name = part_name(total, measure, seconds) %}
        {%- if seconds is none %}
        coalesce(measured.{{ name }}, 0) + coalesce(older.{{ name }}, 0) as {{ name }}
        {%- else %}
        measured.{{ name }}
        {%- endif %}
        {%- endfor %}
    from measured
    left join older
        on {% for column in key %}measured.{{ column }} = older._older_{{ column }} and {% endfor -%}
        {{ time }} is not null and is_time_excluded is not true

),

{% endif -%}
features as (

    select
        {{ sql_text(stream.source_text) }} || _topic as source,
        {{ stream.id }} as transaction_id,
        {{ keys }},
        cast({{ stream.amount }} as double) as amount,
        {{ time }} as event_time,
        _timestamp as source_committed_at,
        _ingested_at as landed_at,
        'c' as op,
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded,
        {{- arrival_features(features) }}
        cast(null as boolean) as user_exists,
        current_timestamp as scored_at,
        _topic,
        _partition,
        _offset
    from {{ 'known' if incremental and all_time else 'measured' }}

)

select * from features
{%- endmacro %}
