{{ config(strategy='append', tags=['hot']) }}

{#- Some readers do not support years with more than four digits. -#}
{{ event_rows(
    'card_payments',
    source('bronze', 'card_transactions'),
    time=try_cast('trans_date_trans_time', 'timestamp'),
    derived={'_birth_date': birth_date('dob', 'cast(coalesce(_event_time, _timestamp) as date)')},
    replaced={'dob': "case when _birth_date between date '0001-01-01' and date '9999-12-31' then _birth_date end"},
) }}
