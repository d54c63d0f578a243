{{ config(strategy='merge', unique_key=['window_start', 'user_id'], tags=['replica']) }}

with new_versions as (

    select * from {{ new_rows(ref('user_trans_amt_last_360min_windowed_versions')) }}

),

ranked as (

    select
        new_versions.*,
        row_number() over (partition by window_start, user_id order by version desc) as recency,
        min(version) over (partition by window_start, user_id) as first_version
    from new_versions

),

newest as (

    select
        window_start,
        window_end,
        user_id,
        user_mean_trans_amt_last_360min,
        user_trans_count_last_360min,
        first_version = 1 as _is_new,
        is_deleted as _delete
    from ranked
    where recency = 1 and not (first_version = 1 and is_deleted)

)

select * from newest
