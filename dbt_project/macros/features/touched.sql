{#- Vectors affected by changed rows: those whose windows contained the row before the change or contain it after. -#}

{#- `candidates`: a relation of the rows that have a vector, with the source's id, keys and time. `changes`: a relation
    of the old and new positions of changed rows, with keys, time and changed_at (when it became known). Returns id and
    the newest changed_at of each affected candidate; a change at a row's own position does not affect it. -#}
{% macro touched_rows(source, features, candidates, changes) -%}
    {%- set parts = [] -%}
    {%- for name, entity in source.entities.items() -%}
        {%- set own = features | selectattr('entity', 'equalto', name) | rejectattr('aggregate', 'none') | list -%}
        {%- set reaches = reaches_of(own) -%}
        {%- if reaches -%}
            {%- do parts.append(touched_in_windows(source, entity.key, reaches, candidates, changes)) -%}
        {%- endif -%}
        {%- for measure in own | selectattr('seconds', 'none') | map(attribute='measure') | unique -%}
            {%- do parts.append(touched_as_next(source, entity.key, measure, candidates, changes)) -%}
        {%- endfor -%}
    {%- endfor -%}
    select {{ source.id }}, max(changed_at) as changed_at
    from (
        {{ parts | join('\nunion all\n') | indent(8) }}
    ) as touched_parts
    where changed_at is not null and {{ source.id }} is not null
    group by {{ source.id }}
{%- endmacro %}

{#- How long after a change features count it, as [from, until] in microseconds, one for each delay. -#}
{% macro reaches_of(features) %}
    {%- set longest = {} -%}
    {%- for feature in features if feature.seconds is not none -%}
        {%- set delay = delay_seconds(feature) -%}
        {%- do longest.update({delay: [longest.get(delay, 0), feature.seconds] | max}) -%}
    {%- endfor -%}
    {%- set reaches = [] -%}
    {%- for delay, seconds in longest.items() -%}
        {%- do reaches.append([delay * 1000000 + 1, (delay + seconds) * 1000000]) -%}
    {%- endfor -%}
    {{ return(reaches) }}
{% endmacro %}

{#- Candidates whose windows contain a change. -#}
{% macro touched_in_windows(source, key, reaches, candidates, changes) -%}
    {%- for begin, end in reaches %}
    {{- '\nunion all\n' if not loop.first }}
    select
        {{ source.id }},
        max(changed_at) over (
            partition by {{ key | join(', ') }} order by _at range between {{ end }} preceding and {{ begin }} preceding
        ) as changed_at
    from (
        {{ candidates_and_changes(source, key, candidates, changes) | indent(8) }}
    ) as placed
    {%- endfor %}
{%- endmacro %}

{#- Candidates that come next after a change, however much later: no other candidate (with a measure: none that has it)
    is in between. -#}
{% macro touched_as_next(source, key, measure, candidates, changes) -%}
    {%- set of_key = 'partition by ' ~ (key | join(', ')) ~ ' order by _at range between unbounded preceding and' -%}
    select
        {{ source.id }},
        max(changed_at) over (
            partition by {{ key | join(', ') }}, candidate_before order by _at range between unbounded preceding and 1 preceding
        ) as changed_at
    from (
        select
            placed.*,
            case
                when {{ source.id }} is null
                    then max(_seen_at) over ({{ of_key }} current row)
                else max(_seen_at) over ({{ of_key }} 1 preceding)
            end as candidate_before
        from (
            {{ candidates_and_changes(source, key, candidates, changes, measure) | indent(12) }}
        ) as placed
    ) as between_candidates
{%- endmacro %}

{#- Candidates and changes together, of keys that have changes; a change has no id. `_seen_at`: the time of a candidate;
    with a measure, only of those that have it. -#}
{% macro candidates_and_changes(source, key, candidates, changes, measure=none) -%}
    {%- set complete = (key + [source.time]) | join(' is not null and ') ~ ' is not null' -%}
    select
        {{ source.id }},
        {{ key | join(', ') }},
        {{ microseconds(source.time) }} as _at,
        {{ if_it_has(source, measure, microseconds(source.time)) }} as _seen_at,
        null as changed_at
    from {{ candidates }}
    where {{ complete }}
        and ({{ key | join(', ') }}) in (select {{ as_one_value(key) }} from {{ changes }} where {{ complete }})

    union all

    select null, {{ key | join(', ') }}, {{ microseconds(source.time) }}, null, changed_at
    from {{ changes }}
    where {{ complete }}
{%- endmacro %}
