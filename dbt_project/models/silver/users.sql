{{ config(strategy='merge', unique_key=['user_id'], tags=['replica'], source_types=true, alias=var('users_table')) }}
{{ replica(source('bronze', 'users'), ['user_id'], setting('users_columns')) }}
