{#- The tables about accounts of a web shop, with the shipped stream account_payments and the table auth_user. -#}

{#- Whether the pipeline folder declares that stream and both its tables are captured; without, the models are left out. -#}
{% macro has_accounts() %}
    {%- set stream = var('streams', {}).get('account_payments', {}) -%}
    {{ return(stream.get('table') == 'user_transaction' and 'auth_user' in var('captured_tables', [])) }}
{% endmacro %}

{#- CTEs up to flagged: the payments at which an account had, within ten minutes, a total of more than 1,000 or more than
    ten payments; the payment itself and those of its moment included. -#}
{% macro flagged_payments() -%}
payments as (

    select id, account_id, amount, received_at
    from {{ ref('captured_user_transaction') }}
    where account_id is not null and received_at is not null

),

windowed as (

    select
        payments.*,
        sum(amount) over in_ten_minutes as total_amount,
        count(*) over in_ten_minutes as transaction_count
    from payments
    window in_ten_minutes as (
        partition by account_id
        order by received_at
        range between interval 10 minutes preceding and current row
    )

),

flagged as (

    select * from windowed where total_amount > 1000 or transaction_count > 10

)
{%- endmacro %}

{#- CTEs up to customers: the account's user as it is now. -#}
{% macro customers() -%}
customers as (

    select id as account_id, username as user_name, email from {{ ref('captured_auth_user') }}

)
{%- endmacro %}
