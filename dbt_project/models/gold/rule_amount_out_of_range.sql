{{ config(materialized='view', tags=['hot', 'rule']) }}

{%- set limit = '%.15g' | format(largest_amount()) %}

with evaluated as (

    {{ new_features() }}

),

fired as (

    select
        {{ alert_columns(
            'amount_out_of_range',
            score='coalesce(abs(amount) / ' ~ limit ~ ', 1)',
            reason="case when amount is null then 'the amount is no number that can be computed with'"
                ~ " else 'amount ' || " ~ readable('amount') ~ " || ' is beyond "
                ~ limit ~ "' end || ' and counts in no feature'",
            terms=[['amount', 'amount'], ['max_amount', limit]],
        ) }}
    from evaluated
    where is_amount_excluded

)

select * from fired
