{#- recorded alerts never change, so this table outlives a full refresh -#}
{{ config(strategy='append', tags=['hot'], full_refresh=false) }}

{{ fired_alerts('live') }}
