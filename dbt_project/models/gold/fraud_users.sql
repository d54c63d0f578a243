{{ config(enabled=has_transfers(), strategy='overwrite', tags=['replica']) }}

with results as (

    select transaction_id, source_process from {{ ref('fraudulent_transactions_result') }}

),

transfers as (

    select transfers.*, results.source_process
    from {{ ref('bank_transfers') }} as transfers
    inner join results on transfers.transaction_id = results.transaction_id

),

people as (
    {% for role in ['sender', 'receiver'] %}
    select
        {%- for name, column in person_fields().items() %}
        {{ role }}_{{ column }} as {{ name }},
        {%- endfor %}
        source_process, transfer_date, transaction_id, '{{ role }}' as role
    from transfers
    {{ 'union all' if not loop.last }}
    {%- endfor %}

),

ranked as (

    select
        people.*,
        row_number() over (partition by id order by transfer_date desc, transaction_id desc, role desc) as recency
    from people

),

users as (

    select {{ person_fields() | join(', ') }}, source_process from ranked where recency = 1

)

select * from users
