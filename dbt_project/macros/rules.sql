{#- Shared by the rule models: each selects from `evaluated` (the new rows of all streams' features, in one shape) the
    rows its rule fires on, and shapes them with alert_columns. -#}

{#- The streams by name, only those of this kind if one is given. While dbt parses, those whose models it can see. -#}
{% macro payment_streams(kind=none) %}
    {%- set found = {} -%}
    {%- for name, stream in (setting('streams') or var('stream_models')).items() -%}
        {%- if kind is none or kind == ('changes' if stream.ledger else 'events') -%}
            {%- do found.update({name: stream}) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}

{#- CTE body: feature rows of all streams that the alerts have not seen yet. `kind`: only of the streams of this kind. An
    amount that is no finite number is null. user_id is the key of an entity named user that is a whole number. -#}
{% macro new_features(kind=none) -%}
    {%- for name, stream in payment_streams(kind).items() %}
    {{- '\n\n    union all\n\n    ' if not loop.first }}
    {%- set features = ref(stream.features) -%}
    {%- if execute -%}
    {%- set key = fast_path_key(stream) -%}
    {%- set is_user = stream.entity == 'user' and key | length == 1 and stream_type(stream, key[0]) == 'bigint' -%}
    select
        source, {{ sql_text(name) }} as stream, {{ sql_text(stream.entity) }} as entity_type,
        {% for column in key %}cast({{ column }} as string){{ " || '|' || " if not loop.last }}{% endfor %} as entity_id,
        transaction_id, {{ key[0] if is_user else 'cast(null as bigint)' }} as user_id, {{ finite('amount') }} as amount,
        event_time, source_committed_at, landed_at, scored_at,
        coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded,
        prior_mean, prior_count, count_10min, sum_10min, user_exists,
        {{ '%.15g' | format(largest_amount(stream)) }} as max_amount,
        {{ '_lsn' if stream.kind == 'changes' else '_offset' }} as position,
        {{ '_seq' if stream.kind == 'changes' else '_partition' }} as sub_position
    from {{ new_rows(features, consumer='alerts') }}
    {%- endif -%}
    {%- endfor %}
{%- endmacro %}

{#- The columns of a fired rule. Args: rule: its name in var('rules'); score: how far beyond the threshold (1 = at
    it); reason: a sentence (SQL text); terms: [name, expression] pairs that show why. -#}
{% macro alert_columns(rule, score, reason, terms) -%}
    {%- set settings = var('rules')[rule] -%}
    '{{ rule }}' as rule,
    cast('{{ settings.version }}' as string) as rule_version,
    '{{ settings.severity }}' as severity,
    entity_type,
    coalesce(entity_id, 'unknown') as entity_id,
    transaction_id,
    user_id,
    amount,
    event_time,
    source_committed_at,
    landed_at,
    scored_at,
    least(cast({{ score }} as double), {{ largest_double() }}) as score,
    {{ evidence_of([['reason', reason]] + terms) }} as evidence,
    source,
    stream,
    position,
    sub_position
{%- endmacro %}

{#- A JSON object from these pairs; of a payment whose amount or event time is excluded it says so. -#}
{% macro evidence_of(pairs) -%}
    {%- set object = json_object(pairs) -%}
    case
        when is_amount_excluded or is_time_excluded
            then substr({{ object }}, 1, length({{ object }}) - 1)
                || case when is_amount_excluded then ',"amount_excluded":true' else '' end
                || case when is_time_excluded then ',"time_excluded":true' else '' end
                || '}'
        else {{ object }}
    end
{%- endmacro %}

{#- The largest double that is finite. -#}
{% macro largest_double() %}{{ return('1.7976931348623157e308') }}{% endmacro %}

{#- A number; null for one that is infinite or no number. -#}
{% macro finite(number) -%}
    case when abs({{ number }}) <= {{ largest_double() }} then {{ number }} end
{%- endmacro %}

{#- A number as people read it, as SQL text. -#}
{% macro readable(number) -%}
    cast(round({{ number }}, 2) as string)
{%- endmacro %}
