{#- `materialized: delta`: run the model in DuckDB, commit its rows to Delta together with its read
    positions, and create a view of the new version for downstream models.
    Configs: strategy (overwrite, append, merge), unique_key (merge), source_types (columns are as in the
    source, not as declared). -#}
{% materialization delta, adapter='duckdb' %}
    {%- set target_relation = this.incorporate(type='view') -%}
    {{ run_hooks(pre_hooks) }}
    {%- set call = lake_consumer() -%}
    {%- set key = config.get('unique_key', []) -%}
    {%- do call.update({
        'model': model.unique_id,
        'sql': sql,
        'columns': {} if config.get('source_types') else lake_columns(model),
        'source_types': config.get('source_types', false),
        'strategy': config.get('strategy', 'overwrite'),
        'unique_key': [key] if key is string else key,
        'definitions': setting('feature_definitions', {}).get(model.name, {}),
    }) -%}
    {%- set rows = lake_call('write', call) -%}
    {% call statement('main') -%}
        select {{ rows }} as rows_written
    {%- endcall %}
    {{ run_hooks(post_hooks) }}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}
