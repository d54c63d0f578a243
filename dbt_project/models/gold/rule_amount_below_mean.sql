{{ config(materialized='view', tags=['hot', 'rule']) }}

{%- set rule = var('rules').amount_below_mean %}

with evaluated as (

    {{ new_features() }}

),

fired as (

    select
        {{ alert_columns(
            'amount_below_mean',
            score=rule.ratio ~ ' * prior_mean / greatest(amount, 0.01)',
            reason="'amount ' || " ~ readable('amount') ~ " || ' is below ' || " ~ readable(rule.ratio ~ ' * prior_mean')
                ~ " || ', ' || '" ~ rule.ratio ~ "' || ' of the mean ' || " ~ readable('prior_mean') ~ " || ' of '"
                ~ " || cast(prior_count as string) || ' earlier transactions'",
            terms=[
                ['amount', 'amount'],
                ['prior_mean', 'prior_mean'],
                ['prior_count', 'prior_count'],
                ['ratio', rule.ratio],
                ['min_earlier', rule.min_earlier],
                ['threshold', rule.ratio ~ ' * prior_mean'],
            ],
        ) }}
    from evaluated
    where prior_count >= {{ rule.min_earlier }}
        and amount >= 0
        and round({{ rule.ratio }} * prior_mean - amount, 6) > 0

)

select * from fired
