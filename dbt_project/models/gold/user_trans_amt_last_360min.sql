{{ config(strategy='merge', unique_key=['trans_num'], tags=['replica']) }}

{%- set new = new_rows(ref('user_trans_amt_last_360min_versions')) %}
{%- set columns = [
    'trans_num',
    'user_id',
    'trans_date_trans_time',
] + feature_names_of('user_trans_amt_last_360min') + ['is_amount_excluded', 'is_time_excluded'] %}
{%- set corrects = is_incremental_build() or has_rows(new, 'version > 1') %}

with new_versions as (

    select * from {{ new }}

),

newest as (

    {{ merge_of_versions('new_versions', ['trans_num'], columns, corrects) | indent(4) }}

)

select * from newest
