{{ config(strategy='append', tags=['features'], full_refresh=false) }}

{{ fired_on_vectors() }}
