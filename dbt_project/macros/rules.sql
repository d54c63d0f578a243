{#- Shared by the rule models: each selects from `evaluated` (the new rows of both feature tables, in one shape)
    the rows its rule fires on, and shapes them with alert_columns. -#}

{#- CTE body: feature rows the alerts have not seen yet. `sources`: which feature tables the rule applies to. An amount
    that is no finite number is null. -#}
{% macro new_features(transactions=true, cards=true) -%}
    {% if transactions -%}
    select
        source, transaction_id, user_id, {{ finite('amount') }} as amount, event_time, source_committed_at, landed_at,
        scored_at, coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded,
        prior_mean, prior_count, count_10min, sum_10min, user_exists, _lsn as position, _seq as sub_position
    from {{ new_rows(ref('transaction_features'), consumer='alerts') }}
    {%- endif %}
    {%- if transactions and cards %}

    union all

    {% endif %}
    {%- if cards -%}
    select
        source, transaction_id, user_id, {{ finite('amount') }} as amount, event_time, source_committed_at, landed_at,
        scored_at, coalesce(is_amount_excluded, false) as is_amount_excluded,
        coalesce(is_time_excluded, false) as is_time_excluded,
        prior_mean, prior_count, count_10min, sum_10min, user_exists, _offset as position, _partition as sub_position
    from {{ new_rows(ref('card_transaction_features'), consumer='alerts') }}
    {%- endif %}
{%- endmacro %}

{#- The columns of a fired rule. Args: rule: its name in var('rules'); score: how far beyond the threshold (1 = at
    it); reason: a sentence (SQL text); terms: [name, expression] pairs that show why. -#}
{% macro alert_columns(rule, score, reason, terms) -%}
    {%- set settings = var('rules')[rule] -%}
    '{{ rule }}' as rule,
    cast('{{ settings.version }}' as string) as rule_version,
    '{{ settings.severity }}' as severity,
    'user' as entity_type,
    coalesce(cast(user_id as string), 'unknown') as entity_id,
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
