{#- One call into the `delta` plugin (fraud_lakehouse/transform/plugin.py): `arguments` has the call and
    receives its result. The positional nones are arguments of the adapter's signature that the plugin ignores. -#}
{% macro lake_call(operation, arguments) %}
    {%- do adapter.store_relation('delta', none, [], '', operation, arguments) -%}
    {{ return(arguments['answer']) }}
{% endmacro %}

{#- The part of a call that names the model being built, and whether it is only compiled: it then gets the same names of
    relations, but the lake is not read. -#}
{% macro lake_consumer(consumer=none) %}
    {%- set node = lake_node(consumer) if consumer else model -%}
    {%- set parents = [] -%}
    {%- for id in node.depends_on.nodes -%}
        {%- set parent = graph.nodes.get(id) or graph.sources.get(id) -%}
        {%- if parent -%}{%- do parents.append([parent.schema, parent.alias or parent.identifier]) -%}{%- endif -%}
    {%- endfor -%}
    {{ return({
        'node': model.unique_id,
        'consumer': [node.schema, node.alias],
        'parents': parents,
        'full_refresh': flags.FULL_REFRESH,
        'only_compiled': flags.WHICH not in ['build', 'run', 'retry'],
        'keep_rows': node.config.full_refresh is sameas false,
    }) }}
{% endmacro %}

{% macro lake_node(name) %}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.name == name -%}
        {{ return(node) }}
    {%- endfor -%}
    {{ exceptions.raise_compiler_error("new_rows: there is no model named '" ~ name ~ "'") }}
{% endmacro %}
