{{ config(strategy='merge', unique_key=['window_start', 'user_id'], tags=['replica']) }}

{%- set new = new_rows(ref('user_trans_amt_last_360min_windowed_versions')) %}
{%- set columns = [
    'window_start',
    'window_end',
    'user_id',
] + feature_names_of('user_trans_amt_last_360min_windowed') %}
{%- set corrects = is_incremental_build() or has_rows(new, 'version > 1') %}
{%- if not corrects %}
    {%- do take_files_of(ref('user_trans_amt_last_360min_windowed_versions')) %}
{%- endif %}

with new_versions as (

    select * from {{ new }}

),

newest as (

    {{ merge_of_versions('new_versions', ['window_start', 'user_id'], columns, corrects, deletions=true) | indent(4) }}

)

select * from newest
