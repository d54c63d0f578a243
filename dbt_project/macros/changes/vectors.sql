{#- All other features of a payment, from the current state of its table and as of its time. `name`: of the stream;
    `ledger`: its ledger. -#}
{% macro change_vectors(name, ledger) %}
{%- if not execute -%}{{ return('') }}{%- endif -%} {#- the streams are not known while dbt parses -#}
{%- set stream = stream_of(name) -%}
{%- set features = features_of(stream.vectors) -%}
{%- set incremental = is_incremental_build() -%}
{%- set new_ledger = new_entries(stream, new_rows(ledger)) -%}
{%- set id, time = stream.id, stream.time -%}
{%- set roles = role_columns(stream) -%}
{%- set keys = [entity_column(stream)] + other_keys(stream) -%}
{%- set has_one_key = keys | length == 1 -%}
{%- set columns = (roles.keys() | list + ['given_time', 'is_amount_excluded', 'is_time_excluded', 'weight', '_lsn', '_seq'])
    | join(', ') -%}
{%- set stored_entries = counted_entries(seen_rows(ledger, entry_columns(stream))) if incremental and not has_one_key -%}
with new_entries as (

    select * from {{ counted_entries(new_ledger) }}

),

-- all entries of the payments that have new entries
entries as (

    select {{ columns }}
    from new_entries
    {%- if incremental %}

    union all

    select {{ columns }}
    {%- if has_one_key %}
    from {{ counted_entries(seen_by_key(
        ledger, entry_columns(stream), ['entity_id'], 'select entity_id from ' ~ new_ledger
    )) }} as stored
    where entity_id in (select entity_id from new_entries where entity_id is not null)
    {%- else %}
    from {{ stored_entries }} as stored
    where {{ has_a_key_of(stream, 'new_entries') }}
    {%- endif %}
    {%- endif %}

),

transactions as (

    {{ present_rows(stream, 'entries') | indent(4) }}

),

changes as (

    select
        {%- for name, own in roles.items() if name not in ['transaction_id', 'amount'] %}
        {{ name }} as {{ own }},
        {%- endfor %}
        _committed_at as changed_at
    from new_entries

),

touched as (

    {{ touched_rows(stream, features, 'transactions', 'changes') | indent(4) }}

),

evaluated as (

    select {{ id }}, max(changed_at) as known_at
    from (
        select transaction_id as {{ id }}, _committed_at as changed_at from new_entries
        union all
        select {{ id }}, changed_at from touched
    ) as changed
    group by {{ id }}

),

{% if incremental and not has_one_key -%}
-- all entries of the entities of evaluated rows: a change of one entity's rows also evaluates rows of other entities
evaluated_entries as (

    select entries.* from entries where transaction_id in (select {{ id }} from evaluated)

),

entries_counted as (

    select {{ columns }}
    from new_entries
    where {{ has_a_key_of(stream, 'evaluated_entries') }}

    union all

    select {{ columns }}
    from {{ stored_entries }} as stored
    where {{ has_a_key_of(stream, 'evaluated_entries') }}

),

transactions_counted as (

    {{ present_rows(stream, 'entries_counted') | indent(4) }}

),

{% endif -%}
timed as (

    select
        transactions.*,
        {{ id }} in (select {{ id }} from evaluated) as is_evaluated
    from {{ 'transactions' if has_one_key or not incremental else 'transactions_counted' }} as transactions
    where {{ time }} is not null

),
{% if incremental and has_one_key %}
-- evaluated rows, and the rows in their longest window
rows_of_vectors as (

    select {{ roles.values() | join(', ') }}, is_evaluated
    from (
        select
            timed.*,
            max(case when is_evaluated then 1 end) over (
                partition by {{ entity_column(stream) }} order by {{ microseconds(time) }}
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
{{ feature_vectors(
    none, stream.vectors, 'rows_of_vectors', 'timed' if incremental else none, source=stream, features=features
) }},

-- a payment without a time, or with an excluded one, has no history; a deleted one has no features
vectors as (

    select
        evaluated.{{ id }},
        {%- for name in keys %}
        transactions.{{ name }},
        {%- endfor %}
        transactions.given_time as event_time,
        transactions.is_amount_excluded,
        transactions.is_time_excluded
        {%- for feature in features %},
        feature_vectors.{{ feature.name }}
        {%- endfor %},
        evaluated.known_at,
        transactions.{{ id }} is null as is_deleted
    from evaluated
    left join transactions on evaluated.{{ id }} = transactions.{{ id }}
    left join feature_vectors on evaluated.{{ id }} = feature_vectors.{{ id }}

),
{% if incremental %}
stored as (

    select * from {{ newest_versions_of(this, id, 'evaluated') }} as newest

),

versions as (

    select vectors.*, coalesce(stored.version, 0) + 1 as version
    from vectors
    left join stored on vectors.{{ id }} = stored.{{ id }}
    where vectors.is_deleted is distinct from coalesce(stored.is_deleted, true)
        or (
            not vectors.is_deleted
            and (
                {%- for name in keys %}
                vectors.{{ name }} is distinct from stored.{{ name }} or
                {%- endfor %}
                vectors.event_time is distinct from stored.event_time
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
{% endmacro %}

{#- The current rows by these entries, with the stream's own column names, as measures use them. -#}
{% macro present_rows(stream, entries) -%}
    select
        {%- for name, own in role_columns(stream).items() %}
        {{ name }} as {{ own }},
        {%- endfor %}
        given_time,
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded
    from (
        select
            entries.*,
            row_number() over (partition by transaction_id order by _lsn desc, _seq desc, weight desc) as recency
        from {{ entries }} as entries
    ) as last_entries
    where recency = 1 and weight = 1
{%- endmacro %}

{#- A condition: an entry shares the key of some entity with one of `others`, a relation of entries. -#}
{% macro has_a_key_of(stream, others) -%}
    {%- set named = {} -%}
    {%- for name, own in role_columns(stream).items() -%}{%- do named.update({own: name}) -%}{%- endfor -%}
    {%- for entity in stream.entities.values() %}
    {%- set key = [] -%}
    {%- for column in entity.key -%}{%- do key.append(named[column]) -%}{%- endfor -%}
    {{ ' or ' if not loop.first }}({{ key | join(', ') }}) in (
        select {{ as_one_value(key) }} from {{ others }} where {{ key | join(' is not null and ') }} is not null
    )
    {%- endfor -%}
{%- endmacro %}
