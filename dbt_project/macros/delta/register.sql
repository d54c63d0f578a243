{#- on-run-start: a view for every table of the lake, at its newest version; missing tables are empty. In tables of the
    lake itself, newly declared columns are null until a row is written. Among sources, these are the ones without an
    LSN; the others have the columns of a database table. -#}
{% macro register_lake() %}
    {%- if execute -%}
        {%- set tables = [] -%}
        {%- for node in graph.sources.values() -%}
            {%- do tables.append({'layer': node.schema, 'name': node.identifier, 'columns': lake_columns(node), 'is_ours': '_lsn' not in node.columns}) -%}
        {%- endfor -%}
        {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.config.materialized == 'delta' -%}
            {%- do tables.append({'layer': node.schema, 'name': node.alias, 'columns': lake_columns(node), 'is_ours': not node.config.get('source_types')}) -%}
        {%- endfor -%}
        {%- do lake_call('register', {'tables': tables}) -%}
    {%- endif -%}
{% endmacro %}

{#- Declared columns of a node: name -> data type, in the order of its yml. -#}
{% macro lake_columns(node) %}
    {%- set declared = {} -%}
    {%- set by_features = setting('feature_columns', {}).get(node.name, {}) if node.resource_type == 'model' else {} -%}
    {%- do declared.update(by_features) -%}
    {%- for column in node.columns.values() if column.name not in declared -%}
        {%- do declared.update({column.name: column.data_type}) -%}
    {%- endfor -%}
    {{ return(declared) }}
{% endmacro %}

{#- dbt docs: columns of the existing tables. The query opens the connection, which loads the plugin. -#}
{% macro duckdb__get_catalog(information_schema, schemas) %}
    {%- do run_query('select 1') -%}
    {%- do register_lake() -%}
    {{ return(dbt.duckdb__get_catalog(information_schema, schemas)) }}
{% endmacro %}
{% macro duckdb__get_catalog_relations(information_schema, relations) %}
    {%- do run_query('select 1') -%}
    {%- do register_lake() -%}
    {{ return(dbt.duckdb__get_catalog_relations(information_schema, relations)) }}
{% endmacro %}
