{{ config(enabled=has_transfers(), strategy='append', tags=['features']) }}

{#- A circle: the receiver of each transfer sends the next one, within a day, and passes on nearly all of the money. -#}
{%- set lengths, hours, least_share, most_share = [3, 4], 24, 0.8, 1.0 -%}
{%- set new_transfers = new_rows(ref('bank_transfers')) -%}

with recent as (

    select transaction_id, sender_id, receiver_id, amount, transfer_date
    from {{ ref('bank_transfers') }}
    where not is_amount_excluded and not is_time_excluded

),

new_ones as (

    select recent.*
    from recent
    inner join {{ new_transfers }} as new_transfers on recent.transaction_id = new_transfers.transaction_id

),

-- the transfer that arrives last may be any of the circle
circles as (
    {% for length in lengths %}
    {%- set last = loop.last -%}
    {%- for arrived in range(length) %}
    select
        leg{{ length - 1 }}.transaction_id,
        {{ length }} as people,
        leg0.amount as first_amount,
        {% for leg in range(length) %}leg{{ leg }}.transaction_id{{ " || ', ' || " if not loop.last }}{% endfor %} as transfers
    from {{ 'new_ones' if arrived == 0 else 'recent' }} as leg0
    {%- for leg in range(1, length) %}
    {%- set before = 'leg' ~ (leg - 1) %}
    inner join {{ 'new_ones' if arrived == leg else 'recent' }} as leg{{ leg }}
        on leg{{ leg }}.sender_id = {{ before }}.receiver_id
        and leg{{ leg }}.transfer_date >= {{ before }}.transfer_date
        and leg{{ leg }}.amount between {{ least_share }} * {{ before }}.amount and {{ most_share }} * {{ before }}.amount
        {%- if leg == length - 1 %}
        and leg{{ leg }}.receiver_id = leg0.sender_id
        and leg{{ leg }}.transfer_date <= leg0.transfer_date + interval {{ hours }} hours
        {%- endif %}
        {%- for other in range(leg) %}
        and leg{{ leg }}.sender_id <> leg{{ other }}.sender_id
        {%- endfor %}
    {%- endfor %}
    {{ 'union all' if not (last and loop.last) }}
    {%- endfor %}
    {%- endfor %}

),

ranked as (

    select circles.*, row_number() over (partition by transaction_id order by people, transfers) as circle_number
    from circles
    {%- if is_incremental_build() %}
    where transaction_id not in (select stored.transaction_id from {{ this }} as stored)
    {%- endif %}

),

closing as (

    select ranked.*, features.* {{ without(['transaction_id']) }}
    from ranked
    inner join {{ ref('transfer_payments_features') }} as features on ranked.transaction_id = features.transaction_id
    where ranked.circle_number = 1

),

evidence as (

    select
        closing.*,
        {{ json_object([
            ['reason', "cast(people as varchar) || ' people sent ' || cast(first_amount as varchar) || ' in a circle within a day, each nearly all of it'"],
            ['people', 'people'],
            ['transfers', 'transfers'],
            ['first_amount', 'cast(first_amount as double)'],
            ['amount', 'amount'],
        ]) }} as evidence
    from closing

),

firings as (

    select
        source, 'transfer_payments' as stream, transaction_id, cast(null as bigint) as user_id, amount, event_time,
        source_committed_at, landed_at, scored_at, _offset as position, cast(_partition as bigint) as sub_position,
        '[' || {{ json_object([
            ['rule', "'transfer_circle'"],
            ['state', "'live'"],
            ['rule_version', "'1'"],
            ['severity', "'high'"],
            ['weight', '35.0'],
            ['entity_type', "'sender'"],
            ['entity_id', 'sender_id'],
            ['score', '1.0'],
            ['evidence', 'evidence'],
        ]) }} || ']' as firings
    from evidence

)

select * from firings
