{{ config(materialized='delta' if stores_window_spine() else 'view', strategy='overwrite', tags=['replica']) }}

{%- set features = features_of('user_trans_amt_last_360min_windowed') %}
{%- set seconds = window_seconds_of('user_trans_amt_last_360min_windowed') %}

with windowed as (

    select * from {{ ref('user_trans_amt_last_360min_windowed') }}

),

starts as (

    select user_id, window_start as start from windowed

),

every_window as (

    select * from {{ spine('starts', 'user_id', 'start', seconds) }}

),

counted as (

    select
        every_window.window_start,
        every_window.window_end,
        every_window.user_id
        {%- for feature in features %},
        coalesce(windowed.{{ feature.name }}, {{ feature.empty }}) as {{ feature.name }}
        {%- endfor %}
    from every_window
    left join windowed
        on every_window.user_id is not distinct from windowed.user_id
        and every_window.window_start = windowed.window_start

)

select * from counted
