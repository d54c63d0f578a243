{#- like alerts, recorded rows never change -#}
{{ config(strategy='append', tags=['hot'], full_refresh=false) }}

{{ fired_alerts('shadow') }}
