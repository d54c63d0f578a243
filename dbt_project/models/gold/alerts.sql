{#- recorded alerts never change, so a full refresh keeps this table -#}
{{ config(strategy='append', tags=['hot'], full_refresh=false) }}

{{ fired_alerts('live') }}
