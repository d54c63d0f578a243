{{ config(strategy='merge', unique_key=['trans_num'], tags=['replica']) }}

with new_versions as (

    select * from {{ new_rows(ref('user_trans_amt_last_360min_versions')) }}

),

-- few: of all others this is the only version
corrected as (

    select distinct trans_num from new_versions where version > 1

),

ranked as (

    select
        new_versions.*,
        row_number() over (partition by new_versions.trans_num order by new_versions.version desc) as recency,
        min(new_versions.version) over (partition by new_versions.trans_num) as first_version
    from new_versions
    inner join corrected on new_versions.trans_num = corrected.trans_num

),

newest as (

    select
        trans_num,
        user_id,
        trans_date_trans_time,
        user_mean_trans_amt_last_360min,
        user_trans_count_last_360min,
        true as _is_new
    from new_versions
    where not exists (select 1 from corrected where corrected.trans_num = new_versions.trans_num)

    union all

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
