{{ config(tags=['replica']) }}
select avg(amount) as amount from {{ ref('latest') }}
