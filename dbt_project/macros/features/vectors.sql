{#- The features of `table` for the evaluated rows of `relation` (the source's rows with is_evaluated; all count), as
    CTEs that end in `feature_vectors`: the source's id, time, key columns, what is `carried`, every feature.
    `history`: where not all rows that count lie in the relation, those of seconds_since_last and is_first do; then
    only keys of evaluated rows are looked at. `source` and `features`: those to compute instead of the catalogue's. -#}
{% macro feature_vectors(source_name, table, relation, history=none, carried=[], source=none, features=none) -%}
    {%- set source = source or var('feature_sources')[source_name] -%}
    {%- set features = features_of(table) if features is none else features -%}
    {%- set touched = history is not none -%}
    {%- set blocks = [] -%}
    prepared as {{ computed_once() }} (

        {{ prepared_rows(source, relation, carried) | indent(8) }}

    )
    {%- for entity_name, entity in source.entities.items() %}
    {%- set all_own = features | selectattr('entity', 'equalto', entity_name) | rejectattr('aggregate', 'none') | list -%}
    {%- set delayed = all_own | rejectattr('delay', 'none') | list -%}
    {%- set own = all_own | selectattr('delay', 'none') | list -%}
    {%- set summed = own | selectattr('aggregate', 'in', ['count', 'sum', 'mean', 'stddev']) | list -%}
    {%- set recent = own | selectattr('aggregate', 'in', ['seconds_since_last', 'is_first']) | list -%}
    {%- set different = own | selectattr('aggregate', 'equalto', 'distinct') | list -%}
    {%- set valued = own | rejectattr('aggregate', 'in', ['count', 'sum', 'mean', 'stddev', 'seconds_since_last', 'is_first', 'distinct']) | list -%}
    {%- if summed -%}
    {%- do blocks.append([entity_name ~ '_totals', summed]) -%},

    {{ entity_name }}_totals as (

        {{ totals('prepared', entity, summed, source.measures, touched) | indent(8) }}

    )
    {%- endif -%}
    {%- if valued -%}
    {%- do blocks.append([entity_name ~ '_values', valued]) -%},

    {{ entity_name }}_values as (

        {{ values_block('prepared', entity, valued, touched) | indent(8) }}

    )
    {%- endif -%}
    {%- for measure in different | map(attribute='measure') | unique -%}
    {%- set counted = different | selectattr('measure', 'equalto', measure) | list -%}
    {%- do blocks.append([entity_name ~ '_' ~ measure ~ '_distinct', counted]) -%},

    {{ entity_name }}_{{ measure }}_seen as {{ computed_once() }} (

        {{ last_seen_rows('prepared', entity, measure, touched) | indent(8) }}

    ),

    {{ entity_name }}_{{ measure }}_distinct as (

        {{ distinct_block(entity_name ~ '_' ~ measure ~ '_seen', entity, measure, counted) | indent(8) }}

    )
    {%- endfor -%}
    {%- if delayed -%}
    {%- do blocks.append([entity_name ~ '_delayed', delayed]) -%},

    {{ entity_name }}_delayed as (

        {{ delayed_block('prepared', entity, delayed, source.measures, touched) | indent(8) }}

    )
    {%- endif -%}
    {%- if recent -%}
    {%- do blocks.append([entity_name ~ '_recency', recent]) -%},

    {{ entity_name }}_recency as (

        {{ recency_block('prepared', entity, recent, source, history) | indent(8) }}

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
