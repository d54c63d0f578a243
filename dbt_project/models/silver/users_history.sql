{{ config(strategy='merge', unique_key=['user_id', '_lsn', '_seq'], tags=['replica'], source_types=true, alias=var('users_table') ~ '_history') }}
{{ history(source('bronze', 'users'), ['user_id']) }}
