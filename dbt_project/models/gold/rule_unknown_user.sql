{{ config(materialized='view', tags=['hot', 'rule']) }}

with evaluated as (

    {{ new_features('changes') }}

),

fired as (

    select
        {{ alert_columns(
            'unknown_user',
            score='1',
            reason="case when entity_id is null then 'the transaction names no ' || entity_type"
                ~ " else entity_type || ' ' || entity_id || ' did not exist when the transaction was committed' end",
            terms=[['user_id', 'user_id'], ['user_exists', 'user_exists'], ['amount', 'amount']],
        ) }}
    from evaluated
    where user_exists = false

)

select * from fired
