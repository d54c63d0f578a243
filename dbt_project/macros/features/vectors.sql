{#- The features of `table` for the evaluated rows of `relation` (the source's rows with is_evaluated; all count), as
    CTEs that end in `feature_vectors`: the source's id, time, key columns, the columns `carried`, every feature.
    `history`: if the relation does not have all rows that count, those for seconds_since_last and is_first; then only
    keys of evaluated rows are read. `source` and `features`: to compute instead of the catalogue's.
    `indexed`: the result of indexed_rows for the same rows, which are then read from it. `earlier`: if the indexed rows
    are not all that count, a relation of the others, which are before all of them and outside every window. -#}
{% macro feature_vectors(
    source_name, table, relation, history=none, carried=[], source=none, features=none, indexed=none, earlier=none
) -%}
    {%- if not execute -%}{{ return('') }}{%- endif -%} {#- the features are not known while dbt parses -#}
    {%- set source = source or setting('streams')[source_name] -%}
    {%- set features = features_of(table) if features is none else features -%}
    {%- set touched = history is not none -%}
    {%- set blocks = [] -%}
    {%- if indexed -%}
    {%- if earlier -%}
    told as {{ computed_once() }} (

        select * from {{ indexed }}

    ),

    seen as (

        {{ seen_earlier('told', source, features, earlier) | indent(8) }}

    ),

    {% endif -%}
    aggregated as (

        {{ looked_up('seen' if earlier else indexed, source, features) | indent(8) }}

    ),
    {%- else -%}
    prepared as {{ computed_once() }} (

        {{ prepared_rows(source, relation, carried) | indent(8) }}

    )
    {%- for entity_name, entity in source.entities.items() %}
    {%- set own = feature_blocks(features, entity_name) -%}
    {%- if own.valued -%}
    {%- do blocks.append([entity_name ~ '_values', own.valued]) -%},

    {{ entity_name }}_values as (

        {{ values_block('prepared', entity, own.valued, touched) | indent(8) }}

    )
    {%- endif -%}
    {%- if own.summed -%}
    {%- do blocks.append([entity_name ~ '_totals', own.summed]) -%},

    {{ entity_name }}_totals as (

        {{ totals('prepared', entity, own.summed, source.measures, touched) | indent(8) }}

    )
    {%- endif -%}
    {%- for measure in own.different | map(attribute='measure') | unique -%}
    {%- set counted = own.different | selectattr('measure', 'equalto', measure) | list -%}
    {%- do blocks.append([entity_name ~ '_' ~ measure ~ '_distinct', counted]) -%},

    {{ entity_name }}_{{ measure }}_seen as {{ computed_once() }} (

        {{ last_seen_rows('prepared', entity, measure, touched) | indent(8) }}

    ),

    {{ entity_name }}_{{ measure }}_distinct as (

        {{ distinct_block(entity_name ~ '_' ~ measure ~ '_seen', entity, measure, counted) | indent(8) }}

    )
    {%- endfor -%}
    {%- if own.delayed -%}
    {%- do blocks.append([entity_name ~ '_delayed', own.delayed]) -%},

    {{ entity_name }}_delayed as (

        {{ delayed_block('prepared', entity, own.delayed, source.measures, touched) | indent(8) }}

    )
    {%- endif -%}
    {%- if own.recent -%}
    {%- do blocks.append([entity_name ~ '_recency', own.recent]) -%},

    {{ entity_name }}_recency as (

        {{ recency_block('prepared', entity, own.recent, source, history) | indent(8) }}

    )
    {%- endif -%}
    {%- endfor -%},

    aggregated as (

        select
            prepared.*
            {%- for block, members in blocks %}
            {%- for feature in members %},
            {{ block }}.{{ feature.name }}
            {%- endfor %}
            {%- endfor %}
        from prepared
        {%- for block, members in blocks %}
        left join {{ block }} on prepared._row = {{ block }}._row
        {%- endfor %}
        where prepared.is_evaluated

    ),
    {%- endif %}

    feature_vectors as (

        select
            {{ source.id }}
            {%- for column in (carried + feature_keys(source)) | unique %},
            {{ column }}
            {%- endfor %},
            {{ source.time }} as event_time
            {%- for feature in features %},
            cast({{ feature.expression or feature.name }} as {{ feature.data_type }}) as {{ feature.name }}
            {%- endfor %}
        from aggregated

    )
{%- endmacro %}
