{#- New payments, each with its fast-path features as of arrival. On DuckDB they come from the feature engine
    (fraud_lakehouse/transform/scored.py), on other engines and in unit tests from the SQL definition below. -#}

{#- A relation with `columns` and, for each fast-path feature of the stream, the column scored_feature(name). `rows`:
    the relation of new rows. `sql`: the payments in it, with the stream's columns; for changes also weight, 1 for a
    version that begins and -1 for one that ends. `history`: the same over `rows`, only rows that count. `order`: SQL of
    the order of arrival. -#}
{% macro scored_payments(stream, upstream, rows, sql, history, order, columns) %}
    {%- if lake_is_unit_test() -%}
        {{ return(defined_payments(stream, sql, order, columns)) }}
    {%- endif -%}
    {{ return(adapter.dispatch('scored_payments')(stream, upstream, rows, sql, history, order, columns)) }}
{% endmacro %}
{% macro default__scored_payments(stream, upstream, rows, sql, history, order, columns) %}
    {%- set call = lake_consumer() -%}
    {%- do call.update({
        'stream': stream.name,
        'upstream': [upstream.schema, upstream.identifier],
        'rows': rows | string,
        'sql': sql,
        'history': history,
        'order': order,
        'columns': columns,
    }) -%}
    {{ return(lake_call('scored', call)) }}
{% endmacro %}
{% macro spark__scored_payments(stream, upstream, rows, sql, history, order, columns) %}
    {{ return(defined_payments(stream, sql, order, columns)) }}
{% endmacro %}

{#- The column of a feature in that relation. -#}
{% macro scored_feature(name) %}{{ return(quoted('feature ' ~ name)) }}{% endmacro %}

{#- The features of the catalogue as columns before others. -#}
{% macro scored_features(features) -%}
    {%- for feature in features %}
        {{ scored_feature(feature.name) }} as {{ feature.name }},
    {%- endfor %}
{%- endmacro %}

{#- Further columns that rules need, after others; they are known when the model is run. -#}
{% macro further_columns(stream) %}
    {{- adapter.dispatch('further_columns')(stream) if not lake_is_unit_test() -}}
{% endmacro %}
{% macro default__further_columns(stream) %}lake_further_{{ stream.name }}{% endmacro %}
{% macro spark__further_columns(stream) %}{% endmacro %}

{#- The measures of these features: name -> SQL expression over a row, null for an excluded amount. -#}
{% macro arrival_measures(features) %}
    {%- set found = {} -%}
    {%- for feature in features if feature.measure -%}
        {%- set source = setting('streams')[feature.stream] -%}
        {%- set measure = source.measures[feature.measure] -%}
        {%- set counted = 'case when is_amount_excluded is not true and is_time_excluded is not true then ' ~ measure.expression ~ ' end' -%}
        {%- do found.update({feature.measure: counted if source.amount in measure.columns else measure.expression}) -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}

{#- The definition of the features: for each payment, aggregates over the payments that had arrived before it. A window
    ends with the payment itself, which counts in it. Without a window, all earlier payments count: for events those
    with an earlier event time, for changes all rows of the table at that moment. An event without a time counts only
    itself. -#}
{% macro defined_payments(stream, sql, order, columns) -%}
{%- set features = features_of(stream.features) -%}
{%- set measures = arrival_measures(features) -%}
{%- set key = fast_path_key(stream) -%}
{%- set is_changes = stream.kind == 'changes' -%}
(
    with arrivals as (

        select payments.*, row_number() over (order by {{ order }}) as _arrival from ({{ sql }}) as payments

    ),

    counted as (

        select
            _arrival,
            {{ key | join(', ') }},
            {{ key | join(' is not null and ') }} is not null as has_key,
            case when is_time_excluded is not true then {{ microseconds(stream.time) }} end as _at,
            {{ stream.time }} is null and is_time_excluded is not true as is_alone,
            {{ 'weight' if is_changes else '1' }} as _weight,
            {{ 'lead(_arrival) over (partition by ' ~ stream.id ~ ' order by _arrival)' if is_changes else 'cast(null as bigint)' }} as _until
            {%- for name, expression in measures.items() %},
            {{ exact_amount(expression) }} as value_of_{{ name }}
            {%- endfor %}
        from arrivals

    )

    select
        arrivals.{{ columns | join(', arrivals.') }}
        {%- for feature in features %},
        {%- set value = 'earlier.value_of_' ~ feature.measure if feature.measure else 'earlier._arrival' -%}
        {%- set is_in_window -%}
        {%- if feature.seconds is not none -%}
            earlier._at between payment._at - {{ feature.seconds * 1000000 }} and payment._at
            {{- ' or earlier._arrival = payment._arrival and payment.is_alone' if not is_changes }}
        {%- else -%}
            earlier._arrival < payment._arrival{{ ' and earlier._at < payment._at' if not is_changes }}
        {%- endif -%}
        {%- endset -%}
        {%- set counted = 'case when ' ~ is_in_window ~ ' then ' ~ value ~ ' end' %}
        {% if feature.aggregate == 'count' -%}
        count({{ counted }})
        {%- elif feature.aggregate == 'sum' -%}
        cast(coalesce(sum({{ counted }}), 0) as double)
        {%- else -%}
        cast(sum({{ counted }}) as double) / nullif(count({{ counted }}), 0)
        {%- endif %} as {{ scored_feature(feature.name) }}
        {%- endfor %}
    from arrivals
    inner join counted as payment on arrivals._arrival = payment._arrival and payment._weight = 1
    left join counted as earlier
        on earlier._weight = 1
        and (
            earlier._arrival = payment._arrival
            or (
                payment.has_key and {{ equal_in(key, 'earlier', 'payment') }}
                and earlier._arrival < payment._arrival
                and coalesce(earlier._until > payment._arrival, true)
            )
        )
    group by all
)
{%- endmacro %}
