{{ config(strategy='append', tags=['features']) }}

{%- set source = setting('feature_sources', {}).get('cards', {'entities': {}}) %}
{%- set features = features_of('card_feature_vectors') %}
{%- set horizon = longest_window(features) %}
{%- set incremental = is_incremental_build() %}
{%- set payments = counted_payments(ref('card_transactions')) %}
{%- set new = counted_payments(new_rows(ref('card_transactions'))) %}
{%- set observed = all_observations() %}
{%- set drops_late = setting('late_rows') == 'drop' %}
{%- set new_late = new_rows(ref('card_transactions_late')) if drops_late else none %}
{%- set counts -%}
    trans_date_trans_time is not null
    {%- if drops_late %}
    and trans_num not in (select trans_num from {{ ref('card_transactions_late') }})
    {%- endif %}
{%- endset %}
{#- Payments that were counted before they turned out late, and the first of them; in a build from all rows none. -#}
{%- set late_now = '(' ~ late_only_now({'id': 'trans_num', 'time': 'trans_date_trans_time'}, new, new_late) ~ ') as late_now' %}
{%- set first_late = 'select min(trans_date_trans_time) from ' ~ late_now if drops_late else 'select cast(null as timestamp)' %}
{%- if incremental %}
{%- set late_from = query_value(first_late, 'timestamp') %}
{#- Of the new rows: where to begin reading, the longest window before the first row whose vector may be new or change.
    From the start while nothing has been emitted: the watermark had not passed any row yet. -#}
{%- set begin = query_value(
    "select case when until is not null then least(first_new, until, (" ~ first_late ~ ")) end - interval "
    ~ horizon ~ " seconds"
    ~ " from (select max(event_time) as until from " ~ this ~ ") as emitted"
    ~ " cross join (select min(trans_date_trans_time) as first_new from " ~ new ~ " where " ~ counts ~ ") as news",
    'timestamp'
) %}
{%- endif %}
{%- set rows -%}
{%- if incremental %}
with newest_landing as (

    select max(_ingested_at) as known_at from {{ ref('card_transactions') }}

),

new_transactions as (

    select * from {{ new }} where {{ counts }}

),

emitted as (

    select max(event_time) as until from {{ this }}

),

lake_watermark as (

    {{ lake_watermark(payments, 'trans_date_trans_time', observed) | indent(4) }}

),

-- a partition that was not known before sets it back; what has been told stays told
watermark as (

    select greatest(lake_watermark.watermark, emitted.until + interval 1 microseconds) as watermark
    from lake_watermark
    cross join emitted

),

-- rows that count from `begin` on
transactions as (

    select
        stored.*,
        stored.trans_num in (select trans_num from new_transactions) as is_new,
        coalesce(stored.trans_date_trans_time > emitted.until, true) as is_behind_nothing
    from {{ payments }} as stored
    cross join emitted
    cross join watermark
    where stored.trans_date_trans_time < watermark.watermark
        and stored.trans_date_trans_time >= coalesce({{ begin }}, {{ no_time() }})
        and {{ counts | replace('trans_num not', 'stored.trans_num not') }}

),

emitted_rows as (

    select * from transactions where not is_new and not is_behind_nothing

),

-- new rows that lie before the newest vector, and rows that no longer count: mostly none
changes as (

    select *, _ingested_at as changed_at from transactions where is_new and not is_behind_nothing
    {%- if drops_late %}

    union all

    select stored.*, false as is_new, false as is_behind_nothing, stored._ingested_at as changed_at
    from {{ payments }} as stored
    where stored.trans_date_trans_time >= {{ late_from }}
        and stored.trans_num in (select trans_num from {{ late_now }})
    {%- endif %}

),

-- rows with a vector in whose windows a row has come to lie
touched as (

    {{ touched_rows(source, features, 'emitted_rows', 'changes') | indent(4) }}

)

{%- set is_touched = 'transactions.trans_num in (select trans_num from touched)' %}

select
    transactions.*,
    {{ is_touched }} as is_touched,
    is_new or is_behind_nothing or {{ is_touched }} as is_evaluated,
    newest_landing.known_at
from transactions
cross join newest_landing
{%- else %}
{#- A first or full build: every row that counts. What a vector was computed from had landed by the newest landing up to
    its time, of whatever key: one pass, and never too early. -#}
select
    new_transactions.*,
    false as is_touched,
    true as is_evaluated,
    max(new_transactions._ingested_at) over (
        order by new_transactions.trans_date_trans_time range between unbounded preceding and current row
    ) as known_at
from {{ new }} as new_transactions
cross join (
    {{ lake_watermark(new, 'trans_date_trans_time', observed) | indent(4) }}
) as lake_watermark
where new_transactions.trans_date_trans_time < lake_watermark.watermark
    and {{ counts | replace('trans_num not', 'new_transactions.trans_num not') }}
{%- endif %}
{%- endset %}
{%- set earlier -%}
(
    select *
    from {{ payments }} as payments
    where trans_date_trans_time < {{ begin }} and {{ counts }}
) as earlier
{%- endset %}
{%- set carried = ['is_amount_excluded', 'known_at', 'is_touched'] %}
{%- set indexed = indexed_rows('cards', 'card_feature_vectors', rows, carried) %}

{#- Where an index answers it reads these rows by itself; that they are named here brings the views on tables up to date. -#}
with rows_of_vectors as (

    {{ rows | indent(4) }}

),

{{ feature_vectors(
    'cards', 'card_feature_vectors', 'rows_of_vectors', carried=carried, indexed=indexed,
    earlier=earlier if incremental else none
) }},
{% if incremental %}
touched as (

    select trans_num from feature_vectors where is_touched

),

stored as (

    select * from {{ newest_versions_of(this, 'trans_num', 'touched') }} as newest

),

versions as (

    select feature_vectors.* {{ without(['is_touched']) }}, coalesce(stored.version, 0) + 1 as version
    from feature_vectors
    left join stored on feature_vectors.trans_num = stored.trans_num
    where stored.trans_num is null
        or {{ features_differ(features, 'feature_vectors', 'stored') }}

)
{%- else %}
versions as (

    select feature_vectors.* {{ without(['is_touched']) }}, 1 as version from feature_vectors

)
{%- endif %}

select * from versions
