{{ config(strategy='merge', unique_key=['window_start', 'user_id'], tags=['replica']) }}

with new_versions as (

    select * from {{ new_rows(ref('user_trans_amt_last_360min_windowed_versions')) }}

),

-- few: of all others this is the only version
corrected as (

    select distinct window_start, user_id from new_versions where version > 1

),

ranked as (

    select
        new_versions.*,
        row_number() over (
            partition by new_versions.window_start, new_versions.user_id order by new_versions.version desc
        ) as recency,
        min(new_versions.version) over (partition by new_versions.window_start, new_versions.user_id) as first_version
    from new_versions
    inner join corrected
        on new_versions.window_start = corrected.window_start
        and new_versions.user_id is not distinct from corrected.user_id

),

newest as (

    select
        window_start,
        window_end,
        user_id,
        user_mean_trans_amt_last_360min,
        user_trans_count_last_360min,
        true as _is_new,
        false as _delete
    from new_versions
    where not exists (
        select 1
        from corrected
        where corrected.window_start = new_versions.window_start
            and corrected.user_id is not distinct from new_versions.user_id
    )

    union all

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
