{#- recorded alerts never change, so this table outlives a full refresh -#}
{%- set rules = [
    'rule_amount_above_mean',
    'rule_amount_below_mean',
    'rule_velocity',
    'rule_unknown_user',
    'rule_amount_out_of_range',
] -%}
{{ config(strategy='append', tags=['hot'], full_refresh=false, must_read=rules) }}

with fired as (
    {% for rule in rules %}
    select * from {{ ref(rule) }}
    {{ 'union all' if not loop.last }}
    {%- endfor %}

),

identified as (

    select fired.*, md5(rule || '|' || source || '|' || transaction_id) as alert_id
    from fired

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
        row_number() over (partition by alert_id order by position, sub_position) as firing
    from identified
    {%- if is_incremental_build() %}
    where not exists (select 1 from known where known.alert_id = identified.alert_id)
    {%- endif %}

),

new_alerts as (

    select
        alert_id,
        rule,
        rule_version,
        severity,
        entity_type,
        entity_id,
        transaction_id,
        user_id,
        amount,
        event_time,
        source_committed_at,
        landed_at,
        scored_at,
        current_timestamp as fired_at,
        score,
        evidence,
        source,
        stream
    from ranked
    where firing = 1

)

select * from new_alerts
