{{ config(strategy='append') }}
select id, amount
from {{ new_rows(source('bronze', 'events')) }}
{% if is_incremental_build() %} where id not in (select id from {{ this }}) {% endif %}
