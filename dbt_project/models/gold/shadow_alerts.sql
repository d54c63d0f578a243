{#- like alerts, what was recorded never changes -#}
{{ config(strategy='append', tags=['hot'], full_refresh=false) }}

{{ fired_alerts('shadow') }}
