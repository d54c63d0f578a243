{#- Tells that all rows of `relation` are the rows of the model being built, which has some of its columns by the same
    names: instead of being written again, its files are linked into the model's table (fraud_lakehouse/transform/
    copied.py). Only for a build of all rows. The other columns stay in the files, unseen: a model that says so is never
    to get a column by one of their names. -#}
{% macro take_files_of(relation) %}
    {%- if execute and not lake_is_unit_test() -%}
        {%- set call = lake_consumer() -%}
        {%- do call.update({'upstream': [relation.schema, relation.identifier]}) -%}
        {%- do lake_call('share', call) -%}
    {%- endif -%}
{% endmacro %}
