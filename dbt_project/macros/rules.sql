{#- Rules are files of the pipeline folder (pipeline/rules). A stream's rules are one expression over its feature rows,
    which is known when the model is run (fraud_lakehouse/transform/rulebook.py). -#}

{#- The streams by name. While dbt parses, and in unit tests, those whose models are files. -#}
{% macro payment_streams() %}
    {%- set streams = setting('streams') or var('stream_models') -%}
    {%- if not lake_is_unit_test() -%}{{ return(streams) }}{%- endif -%}
    {%- set own = {} -%}
    {%- for name in streams if name in var('stream_models') -%}{%- do own.update({name: streams[name]}) -%}{%- endfor -%}
    {{ return(own) }}
{% endmacro %}

{#- The models of alerts: firings of the rules in this state (live or shadow) on new rows of features, on vectors, and of
    circles of transfers. The latter two are not a `ref`: they are built after alerts, and the next build of alerts reads
    them. -#}
{% macro fired_alerts(state) -%}
with evaluated as (
    {% for name, stream in payment_streams().items() %}
    {%- set features = ref(stream.features) -%}
    {%- if execute -%}
    {{- '\n\n    union all\n\n    ' if not loop.first }}
    {{ evaluated_rows(name, stream, new_rows(features), state) }}
    {%- endif -%}
    {%- endfor %}
    {%- if execute and not lake_is_unit_test() %}
    {%- for name in ['vector_firings'] + (['transfer_circles'] if has_transfers() else []) %}
    {%- set firings = api.Relation.create(database=this.database, schema=this.schema, identifier=name) %}

    union all

    select {{ evaluated_columns() | join(', ') }} from {{ new_rows(firings) }}
    {%- endfor %}
    {%- endif %}

),

fired as (

    select evaluated.*, {{ json_objects('firings', firing_fields()) }} as firing
    from evaluated
    where firings is not null

),

identified as (

    select fired.*, md5(firing.rule || '|' || source || '|' || transaction_id) as alert_id
    from fired
    where firing.state = {{ sql_text(state) }}

),

{%- if is_incremental_build() %}

known as (

    select stored.alert_id
    from {{ seen_rows(this, {'alert_id': 'alert_id'}) }} as stored
    where stored.alert_id in (select alert_id from identified)

),
{%- endif %}

ranked as (

    select
        identified.*,
        row_number() over (partition by alert_id order by position, sub_position) as firing_number
    from identified
    {%- if is_incremental_build() %}
    where not exists (select 1 from known where known.alert_id = identified.alert_id)
    {%- endif %}

),

new_alerts as (

    select
        alert_id,
        firing.rule,
        firing.rule_version,
        firing.severity,
        firing.entity_type,
        firing.entity_id,
        transaction_id,
        user_id,
        amount,
        event_time,
        source_committed_at,
        landed_at,
        scored_at,
        current_timestamp as fired_at,
        firing.score,
        firing.weight,
        firing.evidence,
        source,
        stream,
        1e3 * {{ seconds_between('source_committed_at', 'current_timestamp') }} as time_to_detect_ms
    from ranked
    where firing_number = 1

)

select * from new_alerts
{%- endmacro %}

{#- The model of firings on vectors: such rules are evaluated once a payment's vector is built. -#}
{% macro fired_on_vectors() -%}
    {%- for name, stream in payment_streams().items() %}
    {{- '\n\nunion all\n\n' if not loop.first }}
    {%- set vectors, features = ref(stream.vectors), ref(stream.features) -%}
    {%- set rows = ref(stream.rows) if stream.late else none -%}
    {%- if execute -%}
    {%- set stored = vector_columns(stream) -%}
    {%- set evaluated -%}
        select
            vectors.* {{ without(stored) }},
            features.source, features.transaction_id, features.amount, features.source_committed_at, features.landed_at,
            features.scored_at, features.is_amount_excluded, features.is_time_excluded, features.user_exists,
            features.{{ positions_of(stream) | join(', features.') }}
            {%- for column in stream.fields if rows and column not in stored and column not in feature_keys(stream) and column != 'amount' %},
            payments.{{ quoted(column) }}
            {%- endfor %}
        from {{ new_rows(vectors) }} as vectors
        inner join (
            select
                stored.*,
                row_number() over (partition by transaction_id order by {{ positions_of(stream) | join(' desc, ') }} desc) as recency
            from {{ features }} as stored
        ) as features
            on cast(vectors.{{ stream.id }} as string) = features.transaction_id and features.recency = 1
        {%- if rows %}
        inner join {{ rows }} as payments on vectors.{{ stream.id }} = payments.{{ stream.id }}
        {%- endif %}
    {%- endset -%}
    {{ evaluated_rows(name, stream, '(' ~ evaluated ~ ')', 'any', 'vectors') }}
    where firings is not null
    {%- endif -%}
    {%- endfor %}
{%- endmacro %}

{#- Columns of vectors that are replaced by those of the payment. -#}
{% macro vector_columns(stream) %}{{ return(['is_amount_excluded', 'version', 'known_at']) }}{% endmacro %}

{#- The commit or arrival order of a stream's payments, as columns of its features. -#}
{% macro positions_of(stream) %}
    {{ return(['_lsn', '_seq'] if stream.kind == 'changes' else ['_offset', '_partition']) }}
{% endmacro %}

{#- The columns of a payment on which rules were evaluated, with those that fired. -#}
{% macro evaluated_columns() %}
    {{ return([
        'source', 'stream', 'transaction_id', 'user_id', 'amount', 'event_time', 'source_committed_at', 'landed_at',
        'scored_at', 'position', 'sub_position', 'firings',
    ]) }}
{% endmacro %}

{#- A SELECT of them: the rows on which rules in this state fire, of a relation that has all that the rules need. -#}
{% macro evaluated_rows(name, stream, relation, state, on='arrival') -%}
    select {{ evaluated_columns() | join(', ') }}
    from {{ fired_rows(name, state, on, payments_as_rules_see_them(name, stream, relation)) }} as evaluated
{%- endmacro %}

{#- An amount that is not a finite number is null. user_id is the key of an entity named user, if it is an integer. -#}
{% macro payments_as_rules_see_them(name, stream, relation) -%}
    {%- set key = fast_path_key(stream) -%}
    {%- set is_user = stream.entity == 'user' and key | length == 1 and stream_type(stream, key[0]) == 'bigint' -%}
    select
        payments.* {{ without(['is_amount_excluded', 'is_time_excluded', 'amount'] + (['user_id'] if key == ['user_id'] else [])) }},
        {{ sql_text(name) }} as stream,
        {{ finite('amount') }} as amount,
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded,
        {{ key[0] if is_user else 'cast(null as bigint)' }} as user_id,
        {{ '%.15g' | format(largest_amount(stream)) }} as max_amount,
        {{ positions_of(stream)[0] }} as position,
        {{ positions_of(stream)[1] }} as sub_position
    from {{ relation }} as payments
{%- endmacro %}

{#- Name and type of the attributes of a firing. -#}
{% macro firing_fields() %}
    {{ return({
        'rule': 'varchar', 'state': 'varchar', 'rule_version': 'varchar', 'severity': 'varchar', 'weight': 'double',
        'entity_type': 'varchar', 'entity_id': 'varchar', 'score': 'double', 'evidence': 'varchar',
    }) }}
{% endmacro %}

{#- A relation of the payments (from SQL) on which rules in this state fire, with `firings`, a JSON list of these. -#}
{% macro fired_rows(stream, state, on, sql) %}
    {%- if lake_is_unit_test() -%}
        {{ return('(select payments.*, ' ~ given_firings() ~ ' as firings from (' ~ sql ~ ') as payments)') }}
    {%- endif -%}
    {%- set call = lake_consumer() -%}
    {%- do call.update({'stream': stream, 'state': state, 'on': on, 'sql': sql}) -%}
    {{ return(lake_call('fired', call)) }}
{% endmacro %}

{#- In a unit test, the firings of a payment, as the test sets them. -#}
{% macro given_firings() %}{{ return('cast(null as varchar)') }}{% endmacro %}

{#- A number; null if it is infinite or NaN. -#}
{% macro finite(number) -%}
    case when {{ is_finite(number) }} then {{ number }} end
{%- endmacro %}
