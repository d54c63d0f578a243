{{ config(strategy='merge', unique_key=['user_id', '_lsn', '_seq'], tags=['replica']) }}
{{ history(source('bronze', 'users'), ['user_id']) }}
