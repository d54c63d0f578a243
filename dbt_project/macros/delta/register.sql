{#- on-run-start: a view for every table of the lake, at its newest version; absent tables are empty. Of a table that
    is ours, columns that its yml has newly declared read as null until a row is written. Of sources these are the ones
    without an LSN: the others have the columns of a database's table. -#}
{% macro register_lake() %}
    {%- if execute -%}
        {%- set tables = [] -%}
        {%- for node in graph.sources.values() -%}
            {%- do tables.append({'layer': node.schema, 'name': node.identifier, 'columns': lake_columns(node), 'is_ours': '_lsn' not in node.columns}) -%}
        {%- endfor -%}
        {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.config.materialized == 'delta' -%}
            {%- do tables.append({'layer': node.schema, 'name': node.alias, 'columns': lake_columns(node), 'is_ours': not node.config.get('source_types')}) -%}
        {%- endfor -%}
        {%- do lake_call('register', {'tables': tables, 'keeps_views': lake_keeps_views()}) -%}
    {%- endif -%}
{% endmacro %}

{#- Whether views must follow every commit: where tests run, models that are views themselves, and models that look at
    tables while they are compiled, which are those of source types and of neither the hot nor the replica lane. Rules
    are views too, but read new_rows only. -#}
{% macro lake_keeps_views() %}
    {%- set needy = [] -%}
    {%- for id in selected_resources -%}
        {%- set node = graph.nodes.get(id) -%}
        {%- if not node or node.resource_type != 'model' or (node.config.materialized != 'delta' and 'rule' not in node.tags) or node.config.get('source_types') or not ('hot' in node.tags or 'replica' in node.tags) -%}
            {%- do needy.append(id) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(needy != [] or selected_resources == []) }}
{% endmacro %}

{#- Declared columns of a node: name -> data type, in the order of its yml. -#}
{% macro lake_columns(node) %}
    {%- set declared = {} -%}
    {%- for column in node.columns.values() -%}
        {%- do declared.update({column.name: column.data_type}) -%}
    {%- endfor -%}
    {{ return(declared) }}
{% endmacro %}
