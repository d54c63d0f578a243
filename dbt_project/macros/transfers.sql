{#- The tables of bank transfers, with the columns of the shipped stream transfer_payments. Its judgements come from the
    validator's client (fraud_lakehouse/validator). -#}

{#- The 13 fields of a person: name here -> column of a transfer, behind sender_ or receiver_. -#}
{% macro person_fields() %}
    {%- set fields = {} -%}
    {%- for name in ['id', 'name', 'address', 'email', 'birthdate', 'phone_number', 'job', 'company', 'ssn', 'blood_group', 'website', 'username'] -%}
        {%- do fields.update({name: name}) -%}
    {%- endfor -%}
    {%- do fields.update({'bank_account': 'own_account'}) -%}
    {{ return(fields) }}
{% endmacro %}

{#- Whether the pipeline folder declares transfers with these columns; without, the models of transfers are left out. -#}
{% macro has_transfers() %}
    {%- set stream = var('streams', {}).get('transfer_payments', {}) -%}
    {%- set wanted = ['transaction_id', 'sender_bank_account', 'receiver_bank_account', 'amount', 'status', 'evaluation', 'transfer_date', 'sender_bank'] -%}
    {%- for role in ['sender', 'receiver'] -%}
        {%- for column in person_fields().values() -%}{%- do wanted.append(role ~ '_' ~ column) -%}{%- endfor -%}
    {%- endfor -%}
    {{ return(stream.get('table') == 'bank_transfers' and not (wanted | reject('in', stream.get('fields', {})) | list)) }}
{% endmacro %}
