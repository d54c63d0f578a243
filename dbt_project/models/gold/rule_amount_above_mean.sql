{{ config(materialized='view', tags=['hot', 'rule']) }}

{%- set rule = var('rules').amount_above_mean %}

with evaluated as (

    {{ new_features() }}

),

fired as (

    select
        {{ alert_columns(
            'amount_above_mean',
            score='amount / (' ~ rule.k ~ ' * prior_mean)',
            reason="'amount ' || " ~ readable('amount') ~ " || ' is ' || " ~ readable('amount / prior_mean')
                ~ " || ' times the mean ' || " ~ readable('prior_mean') ~ " || ' of ' || cast(prior_count as string)"
                ~ " || ' earlier transactions'",
            terms=[
                ['amount', 'amount'],
                ['prior_mean', 'prior_mean'],
                ['prior_count', 'prior_count'],
                ['k', rule.k],
                ['min_earlier', rule.min_earlier],
                ['threshold', rule.k ~ ' * prior_mean'],
            ],
        ) }}
    from evaluated
    where prior_count >= {{ rule.min_earlier }}
        and prior_mean > 0
        and round(amount - {{ rule.k }} * prior_mean, 6) > 0  -- exactly at the threshold is not above it

)

select * from fired
