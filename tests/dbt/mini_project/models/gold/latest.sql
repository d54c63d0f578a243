{{ config(strategy='merge', unique_key='bucket') }}
select nullif(id % 5, 4) as bucket, max(amount) as amount, max(id) > 1000 as _delete
from {{ new_rows(ref('cards')) }}
group by 1
