{{ config(strategy='append', full_refresh=false, must_read=['rule_big']) }}
select id, current_timestamp as fired_at
from {{ ref('rule_big') }}
{% if is_incremental_build() %} where id not in (select id from {{ this }}) {% endif %}
