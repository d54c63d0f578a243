{#- The input of feature_vectors for labels: rows that count but are not evaluated, and labels that are evaluated but do
    not count. Used by features_as_of. -#}

{#- All rows of a stream that may ever count: its columns, and the time range in which each was known (`until` is null
    if it still is). A late event is known until just before the greatest moment, which is the default known_by: so late
    events do not count by default, unless `corrected` is set. -#}
{% macro rows_known(stream, corrected) %}
    {%- if stream.kind == 'events' -%}
    {%- set id = stream.id -%}
    {%- set payments = counted_events(stream, ref(stream.rows)) -%}
    {%- set late = ref(stream.late) -%}
    {%- set known -%}
    select
        payments.*,
        payments._ingested_at as _lake_known_from,
        {{ 'cast(null as ' ~ instant() ~ ')' if corrected else 'case when late.' ~ id ~ ' is not null then ' ~ end_of_time() ~ ' end' }} as _lake_known_to
    from {{ payments }} as payments
    left join (select distinct {{ id }} from {{ late }}) as late
        on payments.{{ id }} = late.{{ id }}
    where payments.{{ stream.time }} is not null
        {%- if setting('late_rows') == 'drop' %}
        and late.{{ id }} is null
        {%- endif %}
    {%- endset -%}
    {%- elif stream.name == 'bank_payments' -%}
    {%- set versions = ref('transactions_history') -%}
    {%- set known -%}
    select
        transaction_id,
        user_id,
        transaction_date,
        case when {{ is_plausible('amount') }} then amount end as amount,
        _lake_known_from,
        _lake_known_to
    from (
        select
            transaction_id,
            {{ try_cast('user_id', 'bigint') }} as user_id,
            {{ try_cast('transaction_date', zoneless()) }} as transaction_date,
            {{ try_cast('amount', 'decimal(38, 9)') }} as amount,
            valid_from as _lake_known_from,
            valid_to as _lake_known_to
        from {{ versions }}
    ) as typed
    where transaction_date is not null
        and not {{ excludes_time('transaction_date', 'true', '_lake_known_from') }}
    {%- endset -%}
    {%- else -%}
    {%- set entries = ref(stream.ledger) -%}
    {%- set known -%}
    select
        {%- for name, own in role_columns(stream).items() %}
        {{ name }} as {{ own }},
        {%- endfor %}
        _lake_known_from,
        _lake_known_to
    from {{ counted_entries('(' ~ entries_until(stream, entries) ~ ')') }} as versions
    where weight = 1 and event_time is not null
    {%- endset -%}
    {%- endif -%}
    {{ return(known) }}
{% endmacro %}

{#- Entries of a ledger with their names in the models, and the commits of each and of the payment's next entry. -#}
{% macro entries_until(stream, entries) -%}
    select
        {%- for name, own in role_columns(stream).items() %}
        {{ own }} as {{ name }},
        {%- endfor %}
        weight,
        is_amount_excluded,
        is_time_excluded,
        _committed_at as _lake_known_from,
        lead(_committed_at) over (partition by {{ stream.id }} order by _lsn, _seq, weight) as _lake_known_to
    from {{ entries }}
{%- endmacro %}

{#- When each payment named by labels could first be decided on, for stored vectors: for changes, its commit. None for
    events: their first version, which waited for the watermark, decides. -#}
{% macro rows_decided(stream, labels) %}
    {%- if stream.kind == 'events' -%}{{ return(none) }}{%- endif -%}
    {%- set entries = ref(stream.ledger) -%}
    {%- set decided -%}
    select {{ stream.id }}, min(_committed_at) as _lake_decided_at
    from {{ entries }}
    where weight = 1 and {{ stream.id }} in (select {{ stream.id }} from {{ labels }})
    group by {{ stream.id }}
    {%- endset -%}
    {{ return(decided) }}
{% endmacro %}

{#- The features, computed from the stream's rows by the macros that build the vectors. -#}
{% macro computed_as_of(labels, declared, chosen, known_by, columns, rows, corrected) -%}
    {%- set by_name = {} -%}
    {%- for feature in features_of(declared.vectors) -%}{%- do by_name.update({feature.name: feature}) -%}{%- endfor -%}
    {%- set base = [] -%}
    {%- for feature in chosen -%}
        {%- for name in (feature.uses if feature.expression else [feature.name]) if by_name[name] not in base -%}
            {%- do base.append(by_name[name]) -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- set own = chosen | map(attribute='own') | sum(start=[]) | unique | list -%}
    {%- set moment = known_by_of(known_by, columns, as_of_default(declared, corrected)) -%}
    {%- set in_views = 'known_by' in columns or (not known_by and moment is not none and moment != end_of_time()) -%}
    {%- set counted = source_counted(declared, base, '_lake_view' if in_views else (microseconds(moment) if moment is not none else none), in_views) -%}
    {%- set keys = feature_keys(counted) | reject('equalto', '_lake_view') | list -%}
    {%- set plain = counted.measures.values() | map(attribute='columns') | sum(start=[]) | unique | reject('in', keys) | list -%}
    (
        with numbered_labels as {{ computed_once() }} (

            select labels.*, row_number() over () as _lake_label
            from {{ labels }} as labels

        ),

        timed_labels as {{ computed_once() }} (

            select
                {%- for key in keys %}
                {{ key }},
                {%- endfor %}
                cast(event_time as {{ zoneless() }}) as {{ declared.time }},
                {{ microseconds('cast(event_time as ' ~ zoneless() ~ ')') }} as _lake_at,
                {{ microseconds(moment) if in_views else 'cast(null as bigint)' }} as _lake_view,
                _lake_label
            from numbered_labels
            where event_time is not null

        ),

        known_rows as (

            select
                {%- for column in keys + plain %}
                {{ column }},
                {%- endfor %}
                {{ declared.time }},
                true as _lake_counts,
                {{ microseconds(declared.time) }} as _lake_at,
                {{ microseconds('_lake_known_from') }} as _lake_known_from,
                {{ microseconds('_lake_known_to') }} as _lake_known_to
            from (
                {{ rows | indent(16) }}
            ) as ever_known
            {%- if moment is not none and not in_views %}
            where _lake_known_from <= {{ moment }} and (_lake_known_to is null or _lake_known_to > {{ moment }})
            {%- endif %}

        ),
        {% if in_views %}
        {{ rows_in_views(counted, base) | indent(8) }}
        {%- else %}
        {{ rows_in_reach(base) | indent(8) }}
        {%- endif %}

        rows_and_labels as (

            select
                {%- for column in keys + plain %}
                {{ column }},
                {%- endfor %}
                {{ declared.time }}, _lake_at, _lake_view, cast(null as bigint) as _lake_label,
                cast(null as string) as {{ declared.id }}, true as _lake_counts, false as is_evaluated
            from counted_rows

            union all

            select
                {%- for key in keys %}
                {{ key }},
                {%- endfor %}
                {%- for column in plain %}
                null as {{ column }},
                {%- endfor %}
                {{ declared.time }}, _lake_at, _lake_view, _lake_label,
                null as {{ declared.id }}, false as _lake_counts, true as is_evaluated
            from timed_labels

        ),

        {{ feature_vectors(
            declared.name, declared.vectors, 'rows_and_labels', 'counted_history', ['_lake_label'], counted, features_counted(base)
        ) | indent(8) }},

        -- input of expressions: the label's own measures, and the features they name
        told_of_labels as (

            select
                numbered_labels._lake_label
                {%- for name in own %},
                {%- set measure = declared.measures[name] %}
                {{ 'cast(' ~ measure.expression ~ ' as double)' if measure.decimals is not none else measure.expression }} as {{ name }}
                {%- endfor %}
            from (
                select
                    _lake_label, cast(event_time as {{ zoneless() }}) as {{ declared.time }}
                    {%- for column in own_columns(declared, own) %},
                    {{ 'case when ' ~ is_plausible(column) ~ ' then ' ~ column ~ ' end as ' if column == declared.amount }}
                    {{- column }}
                    {%- endfor %}
                from numbered_labels
            ) as numbered_labels

        ),

        told as (

            select
                told_of_labels._lake_label
                {%- for feature in chosen %},
                cast({{ feature.expression or feature.name }} as {{ feature.data_type }}) as {{ feature.name }}
                {%- endfor %}
            from told_of_labels
            left join feature_vectors on told_of_labels._lake_label = feature_vectors._lake_label

        )

        select
            numbered_labels.* {{ without(['_lake_label']) }}
            {%- for feature in chosen %},
            told.{{ feature.name }}
            {%- endfor %}
        from numbered_labels
        inner join told on numbered_labels._lake_label = told._lake_label
    ) as told
{%- endmacro %}

{#- By when a row must be known if no moment is given: for events no limit (only the event time matters), for changes
    the label's time; with corrected: now. -#}
{% macro as_of_default(stream, corrected) %}
    {{ return('cast(event_time as ' ~ instant() ~ ')' if stream.kind == 'changes' and not corrected else end_of_time()) }}
{% endmacro %}

{#- Columns of the label that its measures are computed from, without the event time. -#}
{% macro own_columns(declared, own) %}
    {%- set found = [] -%}
    {%- for name in own -%}{%- do found.extend(declared.measures[name].columns) -%}{%- endfor -%}
    {{ return(found | unique | list) }}
{% endmacro %}

{#- The source with what these features need: separately named measures that are null in labels, so that no label
    counts; with views, each entity only within a view. A measure known only some time after its row must also have been
    known by `moment` (microseconds; none: no limit). -#}
{% macro source_counted(declared, features, moment, in_views) %}
    {%- set entities = {} -%}
    {%- for name in features | map(attribute='entity') | unique -%}
        {%- set entity = declared.entities[name] -%}
        {%- do entities.update({name: dict(entity, key=entity.key + (['_lake_view'] if in_views else []))}) -%}
    {%- endfor -%}
    {%- set measures = {} -%}
    {%- for name in features | rejectattr('measure', 'none') | map(attribute='measure') | unique -%}
        {%- set measure = declared.measures[name] -%}
        {%- set counts = '_lake_counts' -%}
        {%- if measure.delay and moment is not none -%}
            {%- set counts = '_lake_counts and _lake_at + ' ~ delay_seconds(measure, declared) * 1000000 ~ ' <= ' ~ moment -%}
        {%- endif -%}
        {%- do measures.update(
            {'counted_' ~ name: dict(measure, expression='case when ' ~ counts ~ ' then ' ~ measure.expression ~ ' end')}
        ) -%}
    {%- endfor -%}
    {{ return(dict(declared, entities=entities, measures=measures)) }}
{% endmacro %}

{#- The features of those measures. -#}
{% macro features_counted(features) %}
    {%- set found = [] -%}
    {%- for feature in features -%}
        {%- do found.append(dict(feature, measure='counted_' ~ feature.measure) if feature.measure else feature) -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}

{#- CTEs counted_rows (those in some label's windows) and counted_history (all), if every label sees the same rows. -#}
{% macro rows_in_reach(features) -%}
counted_history as (

    select known_rows.*, cast(null as bigint) as _lake_view from known_rows

),

counted_rows as (

    select *
    from counted_history
    where _lake_at >= (select min(_lake_at) from timed_labels) - {{ longest_window(features) * 1000000 }}
        and _lake_at < (select max(_lake_at) from timed_labels)

),
{%- endmacro %}

{#- The same if each label sees what was known at its own moment, which is called a view. A row is in each view in which
    it counts for a label: in its windows, or as the newest row before them (that has the measure of a filter). -#}
{% macro rows_in_views(counted, features) -%}
numbered_rows as {{ computed_once() }} (

    select
        known_rows.*,
        {%- for measure in features | selectattr('seconds', 'none') | map(attribute='measure') | reject('none') | unique %}
        {{ counted.measures['counted_' ~ measure].expression }} as _lake_{{ measure }},
        {%- endfor %}
        row_number() over () as _lake_row
    from known_rows
    where _lake_at < (select max(_lake_at) from timed_labels)

),

seen_in_views as {{ computed_once() }} (
    {% for name, entity in counted.entities.items() %}
    {%- set key = entity.key | reject('equalto', '_lake_view') | list %}
    {%- set own = features | selectattr('entity', 'equalto', name) | list %}
    {%- set reach = longest_window(own) * 1000000 %}
    {%- set visible %}
    inner join numbered_rows as seen
        on {{ equal_in(key, 'labels', 'seen') }}
        and seen._lake_known_from <= labels._lake_view
        and (seen._lake_known_to is null or seen._lake_known_to > labels._lake_view)
    {%- endset %}
    {%- if not loop.first %}
    union
    {% endif %}
    select labels._lake_view, seen._lake_row
    from timed_labels as labels
    {{- visible }}
        and seen._lake_at < labels._lake_at
        and seen._lake_at >= labels._lake_at - {{ reach }}
    {%- for measure in own | selectattr('seconds', 'none') | map(attribute='measure') | unique %}

    union

    select labels._lake_view, max_by(seen._lake_row, seen._lake_at) as _lake_row
    from timed_labels as labels
    {{- visible }}
        and seen._lake_at < labels._lake_at - {{ reach }}
        {{- ' and seen._lake_' ~ measure ~ ' is not null' if measure }}
    group by labels._lake_view, labels._lake_label
    {%- endfor %}
    {% endfor %}
),

counted_rows as {{ computed_once() }} (

    select numbered_rows.*, seen_in_views._lake_view
    from seen_in_views
    inner join numbered_rows on seen_in_views._lake_row = numbered_rows._lake_row

),

counted_history as (

    select * from counted_rows

),
{%- endmacro %}
