{{ config(materialized='view', tags=['hot', 'rule']) }}

{%- set rule = var('rules').velocity %}

with evaluated as (

    {{ new_features() }}

),

fired as (

    select
        {{ alert_columns(
            'velocity',
            score='greatest(cast(count_10min as double) / ' ~ rule.max_count ~ ', sum_10min / ' ~ rule.max_amount ~ ')',
            reason="case when count_10min = 1 then 'one transaction of ' || " ~ readable('sum_10min')
                ~ " || ' is more than " ~ rule.max_amount ~ " within 10 minutes'"
                ~ " else cast(count_10min as string) || ' transactions of together ' || " ~ readable('sum_10min')
                ~ " || ' within 10 minutes, this one included' end",
            terms=[
                ['count_10min', 'count_10min'],
                ['sum_10min', 'sum_10min'],
                ['max_count', rule.max_count],
                ['max_amount', rule.max_amount],
                ['amount', 'amount'],
                ['prior_mean', 'prior_mean'],
                ['prior_count', 'prior_count'],
            ],
        ) }}
    from evaluated
    -- rounded: sums of floats differ in their last bits
    where count_10min > {{ rule.max_count }} or round(sum_10min, 6) > {{ rule.max_amount }}

)

select * from fired
