{{ config(strategy='append', tags=['features']) }}

{%- set source = setting('streams', {}).get('bank_payments', {'entities': {}}) %}
{%- set features = features_of('transaction_feature_vectors') %}
{%- set incremental = is_incremental_build() %}
{%- set new_ledger = new_rows(ref('transactions_ledger')) %}
{%- set columns = 'transaction_id, user_id, amount, transaction_date, given_date, is_amount_excluded,'
    ~ ' is_time_excluded, weight, _lsn, _seq' %}

with new_entries as (

    select * from {{ counted_entries(new_ledger) }}

),

-- all entries of the users that new entries are about
entries as (

    select {{ columns }}
    from new_entries
    {%- if incremental %}

    union all

    select {{ columns }}
    from {{ counted_entries(seen_by_key(
        ref('transactions_ledger'), entry_columns(), ['user_id'], 'select user_id from ' ~ new_ledger
    )) }} as stored
    where user_id in (select user_id from new_entries where user_id is not null)
    {%- endif %}

),

last_entries as (

    select
        entries.*,
        row_number() over (partition by transaction_id order by _lsn desc, _seq desc, weight desc) as recency
    from entries

),

transactions as (

    select
        transaction_id, user_id, amount, transaction_date, given_date,
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded
    from last_entries
    where recency = 1 and weight = 1

),

changes as (

    select user_id, transaction_date, _committed_at as changed_at from new_entries

),

touched as (

    {{ touched_rows(source, features, 'transactions', 'changes') | indent(4) }}

),

evaluated as (

    select transaction_id, max(changed_at) as known_at
    from (
        select transaction_id, _committed_at as changed_at from new_entries
        union all
        select transaction_id, changed_at from touched
    ) as changed
    group by transaction_id

),

timed as (

    select
        transactions.*,
        transaction_id in (select transaction_id from evaluated) as is_evaluated
    from transactions
    where transaction_date is not null

),
{% if incremental %}
-- rows in the longest window of an evaluated one, and these
rows_of_vectors as (

    select transaction_id, user_id, amount, transaction_date, is_evaluated
    from (
        select
            timed.*,
            max(case when is_evaluated then 1 end) over (
                partition by user_id order by {{ microseconds('transaction_date') }}
                range between current row and {{ longest_window(features) * 1000000 }} following
            ) as is_needed
        from timed
    ) as placed
    where is_needed = 1

),
{% else %}
rows_of_vectors as (

    select * from timed

),
{% endif %}
{{ feature_vectors('bank_payments', 'transaction_feature_vectors', 'rows_of_vectors', 'timed' if incremental else none) }},

-- a transaction without a date, or with one that is excluded, has no past, one that is gone has nothing
vectors as (

    select
        evaluated.transaction_id,
        transactions.user_id,
        transactions.given_date as event_time,
        transactions.is_amount_excluded,
        transactions.is_time_excluded
        {%- for feature in features %},
        feature_vectors.{{ feature.name }}
        {%- endfor %},
        evaluated.known_at,
        transactions.transaction_id is null as is_deleted
    from evaluated
    left join transactions on evaluated.transaction_id = transactions.transaction_id
    left join feature_vectors on evaluated.transaction_id = feature_vectors.transaction_id

),
{% if incremental %}
stored as (

    select * from {{ newest_versions_of(this, 'transaction_id', 'evaluated') }} as newest

),

versions as (

    select vectors.*, coalesce(stored.version, 0) + 1 as version
    from vectors
    left join stored on vectors.transaction_id = stored.transaction_id
    where vectors.is_deleted is distinct from coalesce(stored.is_deleted, true)
        or (
            not vectors.is_deleted
            and (
                vectors.user_id is distinct from stored.user_id
                or vectors.event_time is distinct from stored.event_time
                or vectors.is_amount_excluded <> coalesce(stored.is_amount_excluded, false)
                or vectors.is_time_excluded <> coalesce(stored.is_time_excluded, false)
                or {{ features_differ(features, 'vectors', 'stored') }}
            )
        )

)
{%- else %}
versions as (

    select vectors.*, 1 as version from vectors where not is_deleted

)
{%- endif %}

select * from versions
