{#- on-run-start: a view for every table of the lake, at its newest version; absent tables are empty. -#}
{% macro register_lake() %}
    {%- if execute -%}
        {%- set tables = [] -%}
        {%- for node in graph.sources.values() -%}
            {%- do tables.append({'layer': node.schema, 'name': node.identifier, 'columns': lake_columns(node)}) -%}
        {%- endfor -%}
        {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.config.materialized == 'delta' -%}
            {%- do tables.append({'layer': node.schema, 'name': node.alias, 'columns': lake_columns(node)}) -%}
        {%- endfor -%}
        {%- do lake_call('register', {'tables': tables}) -%}
    {%- endif -%}
{% endmacro %}

{#- Declared columns of a node: name -> data type, in the order of its yml. -#}
{% macro lake_columns(node) %}
    {%- set declared = {} -%}
    {%- for column in node.columns.values() -%}
        {%- do declared.update({column.name: column.data_type}) -%}
    {%- endfor -%}
    {{ return(declared) }}
{% endmacro %}
