{{ config(strategy='append', full_refresh=false) }}
select id, current_timestamp as fired_at
from {{ new_rows(ref('features')) }}
where amount > 100
{% if is_incremental_build() %} and id not in (select id from {{ this }}) {% endif %}
