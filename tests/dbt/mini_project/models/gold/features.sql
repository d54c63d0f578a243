{{ config(strategy='append') }}
select id, amount / 2 as half, amount from {{ new_rows(ref('cards')) }}
union all
select id, null as half, amount from {{ new_rows(source('bronze', 'absent')) }}
