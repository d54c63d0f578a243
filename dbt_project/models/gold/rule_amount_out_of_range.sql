{{ config(materialized='view', tags=['hot', 'rule']) }}

with evaluated as (

    {{ new_features() }}

),

fired as (

    select
        {{ alert_columns(
            'amount_out_of_range',
            score='coalesce(abs(amount) / max_amount, 1)',
            reason="case when amount is null then 'the amount is no number that can be computed with'"
                ~ " else 'amount ' || " ~ readable('amount') ~ " || ' is beyond '"
                ~ " || cast(max_amount as string) end || ' and counts in no feature'",
            terms=[['amount', 'amount'], ['max_amount', 'max_amount']],
        ) }}
    from evaluated
    where is_amount_excluded

)

select * from fired
