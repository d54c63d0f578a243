{{ config(strategy='merge', unique_key=['user_id'], tags=['replica']) }}
{{ replica(source('bronze', 'users'), ['user_id']) }}
