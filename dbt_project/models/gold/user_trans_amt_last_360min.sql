{{ config(strategy='merge', unique_key=['trans_num'], tags=['replica']) }}

with new_versions as (

    select * from {{ new_rows(ref('user_trans_amt_last_360min_versions')) }}

),

ranked as (

    select
        new_versions.*,
        row_number() over (partition by trans_num order by version desc) as recency,
        min(version) over (partition by trans_num) as first_version
    from new_versions

),

newest as (

    select
        trans_num,
        user_id,
        trans_date_trans_time,
        user_mean_trans_amt_last_360min,
        user_trans_count_last_360min,
        first_version = 1 as _is_new
    from ranked
    where recency = 1

)

select * from newest
