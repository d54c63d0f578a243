{#- The model of a stream's feature vectors: an event's first version once the watermark has passed it, and a new
    version when its input has changed. `rows`, `late`: the stream's rows, and the late ones. -#}
{% macro event_vectors(name, rows, late) -%}
{%- set stream = stream_of(name) -%}
{%- set observed = all_observations() -%}
{%- if not execute -%}{{ return('') }}{%- endif -%}
{%- set id, time = stream.id, stream.time -%}
{%- set features = features_of(stream.vectors) %}
{%- set horizon = longest_window(features) %}
{%- set incremental = is_incremental_build() %}
{%- set payments = counted_events(stream, rows) %}
{%- set new = counted_events(stream, new_rows(rows)) %}
{%- set drops_late = setting('late_rows') == 'drop' %}
{%- set new_late = new_rows(late) if drops_late else none %}
{%- set needed = columns_of_vectors(stream) %}
{#- Payments that were counted before they were found to be late, and the first of them; none in a build from all
    rows. -#}
{%- set late_now = '(' ~ late_only_now(stream, new, new_late) ~ ') as late_now' %}
{%- set first_late = 'select min(' ~ time ~ ') from ' ~ late_now if drops_late else 'select cast(null as timestamp)' %}
{%- if incremental %}
{%- set late_from = query_value(first_late, 'timestamp') %}
{#- Where to begin reading: the longest window before the first row whose vector may be new or change. The beginning of
    time if nothing has been emitted, because the watermark has not passed any row yet. -#}
{%- set begin = query_value(
    "select case when until is not null then least(first_new, until, (" ~ first_late ~ ")) end - interval "
    ~ horizon ~ " seconds"
    ~ " from (select max(event_time) as until from " ~ this ~ ") as emitted"
    ~ " cross join (select min(" ~ time ~ ") as first_new from " ~ new ~ " where " ~ counts_in_vectors(stream, late) ~ ") as news",
    'timestamp'
) %}
{%- endif %}
{%- set evaluated -%}
{%- if incremental %}
with newest_landing as (

    select max(_ingested_at) as known_at from {{ rows }}

),

new_transactions as (

    select {{ id }} from {{ new }} where {{ counts_in_vectors(stream, late) }}

),

emitted as (

    select max(event_time) as until from {{ this }}

),

lake_watermark as (

    {{ lake_watermark(stream, payments, observed) | indent(4) }}

),

-- a new partition moves it back; vectors that were emitted stay
watermark as (

    select greatest(lake_watermark.watermark, emitted.until + interval 1 microseconds) as watermark
    from lake_watermark
    cross join emitted

),

-- rows from `begin` on that count
transactions as (

    select
        stored.{{ needed | join(',\n        stored.') }},
        stored.{{ id }} in (select {{ id }} from new_transactions) as is_new,
        coalesce(stored.{{ time }} > emitted.until, true) as is_behind_nothing
    from {{ payments }} as stored
    cross join emitted
    cross join watermark
    where stored.{{ time }} < watermark.watermark
        and stored.{{ time }} >= coalesce({{ begin }}, {{ no_time() }})
        and {{ counts_in_vectors(stream, late, 'stored.') }}

),

emitted_rows as (

    select * from transactions where not is_new and not is_behind_nothing

),

-- new rows before the newest vector, and rows that no longer count: mostly none
changes as (

    select *, _ingested_at as changed_at from transactions where is_new and not is_behind_nothing
    {%- if drops_late %}

    union all

    select
        stored.{{ needed | join(',\n        stored.') }},
        false as is_new,
        false as is_behind_nothing,
        stored._ingested_at as changed_at
    from {{ payments }} as stored
    where stored.{{ time }} >= {{ late_from }}
        and stored.{{ id }} in (select {{ id }} from {{ late_now }})
    {%- endif %}

),

-- rows with a vector whose windows contain a new row
touched as (

    {{ touched_rows(stream, features, 'emitted_rows', 'changes') | indent(4) }}

)

{%- set is_touched = 'transactions.' ~ id ~ ' in (select ' ~ id ~ ' from touched)' %}

select
    transactions.*,
    {{ is_touched }} as is_touched,
    is_new or is_behind_nothing or {{ is_touched }} as is_evaluated,
    newest_landing.known_at
from transactions
cross join newest_landing
{%- else %}
{#- A first or full build: every row that counts. known_at is the newest ingestion time of any key up to the vector's
    event time: computed in one pass, and never too early. -#}
select
    new_transactions.{{ needed | join(',\n    new_transactions.') }},
    false as is_touched,
    true as is_evaluated,
    max(new_transactions._ingested_at) over (
        order by new_transactions.{{ time }} range between unbounded preceding and current row
    ) as known_at
from {{ new }} as new_transactions
cross join (
    {{ lake_watermark(stream, new, observed) | indent(4) }}
) as lake_watermark
where new_transactions.{{ time }} < lake_watermark.watermark
    and {{ counts_in_vectors(stream, late, 'new_transactions.') }}
{%- endif %}
{%- endset %}
{%- set earlier -%}
(
    select *
    from {{ payments }} as payments
    where {{ time }} < {{ begin }} and {{ counts_in_vectors(stream, late) }}
) as earlier
{%- endset %}
{%- set carried = ['is_amount_excluded', 'known_at', 'is_touched'] %}
{%- set indexed = indexed_rows(name, stream.vectors, evaluated, carried) %}

{#- An index reads these rows by itself; naming them here refreshes the views of the tables. -#}
with rows_of_vectors as (

    {{ evaluated | indent(4) }}

),

{{ feature_vectors(
    name, stream.vectors, 'rows_of_vectors', carried=carried, indexed=indexed,
    earlier=earlier if incremental else none
) }},
{% if incremental %}
touched as (

    select {{ id }} from feature_vectors where is_touched

),

stored as (

    select * from {{ newest_versions_of(this, id, 'touched') }} as newest

),

versions as (

    select feature_vectors.* {{ without(['is_touched']) }}, coalesce(stored.version, 0) + 1 as version
    from feature_vectors
    left join stored on feature_vectors.{{ id }} = stored.{{ id }}
    where stored.{{ id }} is null
        or {{ features_differ(features, 'feature_vectors', 'stored') }}

)
{%- else %}
versions as (

    select feature_vectors.* {{ without(['is_touched']) }}, 1 as version from feature_vectors

)
{%- endif %}

select * from versions
{%- endmacro %}

{#- Whether a row counts in vectors: it has a time, and is not late where late rows are dropped. -#}
{% macro counts_in_vectors(stream, late, prefix='') -%}
    {{ prefix }}{{ stream.time }} is not null
    {%- if setting('late_rows') == 'drop' %}
    and {{ prefix }}{{ stream.id }} not in (select {{ stream.id }} from {{ late }})
    {%- endif %}
{%- endmacro %}

{#- The columns of a stream's rows that vectors need. -#}
{% macro columns_of_vectors(stream) %}
    {%- set of_measures = stream.measures.values() | map(attribute='columns') | sum(start=[]) -%}
    {%- set names = [stream.id, stream.time] + feature_keys(stream) + of_measures -%}
    {{ return((names + ['is_amount_excluded', '_topic', '_partition', '_ingested_at']) | unique | list) }}
{% endmacro %}
