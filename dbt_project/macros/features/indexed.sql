{#- Vectors of very many rows, or of few among very many: the results of totals, distinct_block and recency_block are
    looked up in an index over the rows (fraud_lakehouse/features/event_index.py) instead of computed by windows and
    joins. The same SQL computes the features from them. Returns none if there is no such index; then use those
    blocks. -#}

{#- The relation for feature_vectors. `rows`: self-contained SQL of the source's rows that count; the result has the
    evaluated ones. -#}
{% macro indexed_rows(source_name, table, rows, carried=[]) %}
    {%- if not execute or lake_is_unit_test() -%}
        {{ return(none) }}
    {%- endif -%}
    {{ return(adapter.dispatch('indexed_rows')(source_name, table, rows, carried)) }}
{% endmacro %}
{% macro spark__indexed_rows(source_name, table, rows, carried) %}{{ return(none) }}{% endmacro %}
{% macro default__indexed_rows(source_name, table, rows, carried) %}
    {%- set source = setting('streams')[source_name] -%}
    {%- set entities, beside = {}, [] -%}
    {%- for name, entity in source.entities.items() -%}
        {%- set blocks = feature_blocks(features_of(table), name) -%}
        {%- set totals, distinct = [], [] -%}
        {%- for feature in blocks.summed + blocks.delayed -%}
            {%- for total, measure, seconds in total_parts([feature]) if [total, measure, seconds, delay_seconds(feature)] not in totals -%}
                {%- do totals.append([total, measure, seconds, delay_seconds(feature)]) -%}
            {%- endfor -%}
        {%- endfor -%}
        {%- for feature in blocks.different -%}{%- do distinct.append([feature.measure, feature.seconds]) -%}{%- endfor -%}
        {%- if totals or distinct or blocks.recent -%}
            {%- do entities.update({name: {
                'key': entity.key, 'totals': totals, 'distinct': distinct, 'last': blocks.recent | map(attribute='measure') | unique | list,
            }}) -%}
        {%- endif -%}
        {%- for seconds in blocks.valued | map(attribute='seconds') | unique -%}
            {%- set valued = blocks.valued | selectattr('seconds', 'equalto', seconds) | list -%}
            {%- do beside.append({
                'is_sparse': sparsely_evaluated('lake_rows', entity),
                'sparse': values_of_few('lake_rows', entity, valued, seconds),
                'dense': values_block('lake_rows', entity, valued, true),
            }) -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- set call = lake_consumer() -%}
    {%- do call.update({
        'sql': prepared_rows(source, '(' ~ rows ~ ')', carried, squares=false),
        'entities': entities,
        'beside': beside,
    }) -%}
    {{ return(lake_call('index', call)) }}
{% endmacro %}

{#- The rows of `told` (the result of indexed_rows), if `earlier` counts too: a relation of the source's rows that are
    before all indexed rows and outside every window. They give the last time of keys that no indexed row has. -#}
{% macro seen_earlier(told, source, features, earlier) -%}
    {%- set measures = {} -%}
    {%- for name in source.entities -%}
        {%- set recent = feature_blocks(features, name).recent -%}
        {%- if recent -%}{%- do measures.update({name: recent | map(attribute='measure') | unique | list}) -%}{%- endif -%}
    {%- endfor -%}
    select
        *
        {%- if measures %} replace (
            {%- for name, own in measures.items() %}
            {%- for measure in own %}
            {%- set last = last_name(measure) %}
            coalesce({{ name }}__{{ last }}, {{ name }}_earlier._{{ last }}) as {{ name }}__{{ last }}{{ ',' if not loop.last }}
            {%- endfor %}{{ ',' if not loop.last }}
            {%- endfor %}
        )
        {%- endif %}
    from {{ told }}
    {%- for name, own in measures.items() %}
    {%- set entity = source.entities[name] %}
    {%- set key = entity.key | join(', ') %}
    left join (
        select
            {{ key }}
            {%- for measure in own %},
            max({{ if_it_has(source, measure, microseconds(source.time)) }}) as _{{ last_name(measure) }}
            {%- endfor %}
        from {{ earlier }}
        where ({{ key }}) in (
            select {{ as_one_value(entity.key) }}
            from {{ told }}
            where (
                {%- for measure in own %}
                {{ name }}__{{ last_name(measure) }} is null{{ ' or' if not loop.last }}
                {%- endfor %}
            ) and {{ of_entity(told, entity.key, false) }}
        )
        group by {{ key }}
    ) as {{ name }}_earlier using ({{ key }})
    {%- endfor %}
{%- endmacro %}

{#- All columns of prepared_rows and the aggregated features of every row, from the result of indexed_rows. -#}
{% macro looked_up(told, source, features) -%}
    {%- set wide = [] -%}
    select
        told.*
        {%- for name, entity in source.entities.items() %}
        {%- set blocks = feature_blocks(features, name) -%}
        {%- for total, measure, seconds in total_parts(blocks.summed + blocks.delayed) if total != 'n' -%}
            {%- do wide.append(name ~ '__' ~ total ~ '_' ~ measure ~ '_' ~ seconds) -%}
        {%- endfor -%}
        {%- for feature in blocks.summed + blocks.delayed %},
        {{ from_totals(feature, source.measures[feature.measure].decimals, name ~ '__') }} as {{ feature.name }}
        {%- endfor %}
        {%- for feature in blocks.different %},
        {{ name }}__distinct_{{ feature.measure }}_{{ feature.seconds }} as {{ feature.name }}
        {%- endfor %}
        {%- for feature in blocks.recent %},
        case when {{ of_entity(told, entity.key, false) }} then {{ from_last(feature, name ~ '__' ~ last_name(feature.measure)) }} end as {{ feature.name }}
        {%- endfor %}
        {%- endfor %}
    from (
        select
            *
            {%- if wide %} replace (
                {%- for column in wide %}
                cast({{ column }} as {{ wide_integer() }}) as {{ column }}{{ ',' if not loop.last }}
                {%- endfor %}
            )
            {%- endif %}
        from {{ told }}
    ) as told
{%- endmacro %}

{#- The aggregated features of an entity by the block that computes them. -#}
{% macro feature_blocks(features, entity) %}
    {%- set all_own = features | selectattr('entity', 'equalto', entity) | rejectattr('aggregate', 'none') | list -%}
    {%- set own = all_own | selectattr('delay', 'none') | list -%}
    {%- set sums, recencies = ['count', 'sum', 'mean', 'stddev'], ['seconds_since_last', 'is_first'] -%}
    {{ return({
        'delayed': all_own | rejectattr('delay', 'none') | list,
        'summed': own | selectattr('aggregate', 'in', sums) | list,
        'recent': own | selectattr('aggregate', 'in', recencies) | list,
        'different': own | selectattr('aggregate', 'equalto', 'distinct') | list,
        'valued': own | rejectattr('aggregate', 'in', sums + recencies + ['distinct']) | list,
    }) }}
{% endmacro %}
