{#- Features of labels, each as of its own time: a query for a FROM, with the columns of `labels` and one for each
    feature. One row per label, none is dropped. The contract is docs/reference/which-rows-count.md.
    labels: a relation, or the name of a CTE, with an event_time and columns of keys and amounts named as in the
    source's rows; other columns are kept. columns: the labels' column names (default: those declared in the yml of the
    labels' model or source).
    stream: its name in streams.yml (cards and bank: the shipped ones). features: names (default: all that the labels'
    columns allow).
    known_by: a moment, as text: only rows known by then count; a column known_by of the labels takes precedence.
    stored: the labels name payments by the source's id; use the payments' vectors in the lake.
    corrected: without known_by, count everything known now, including corrections after the decision. -#}
{% macro features_as_of(labels, stream='card_payments', features=none, known_by=none, columns=none, stored=false, corrected=false) %}
    {%- set stream = {'cards': 'card_payments', 'bank': 'bank_payments'}.get(stream, stream) -%}
    {%- if stream not in setting('streams', {}) -%}
        {{ exceptions.raise_compiler_error("features_as_of: unknown stream '" ~ stream ~ "'; use one of " ~ setting('streams', {}) | join(', ')) }}
    {%- endif -%}
    {%- set declared = setting('streams')[stream] -%}
    {%- set vectors = ref(declared.vectors) if stored else none -%}
    {%- set decided = rows_decided(declared, labels) if stored and not corrected else none -%}
    {%- set rows = none if stored else rows_known(declared, corrected) -%}
    {%- if not execute -%}
        {{ return('(select 1) as undecided') }}
    {%- endif -%}
    {%- if corrected and known_by -%}
        {{ exceptions.raise_compiler_error("features_as_of: corrected takes what is known by now, known_by what was known then: give one of them") }}
    {%- endif -%}
    {%- set columns = columns or labels_columns(labels) -%}
    {%- set chosen = features_told_by(declared, features, columns, stored) -%}
    {%- if stored -%}
        {{ return(stored_as_of(labels, declared, chosen, known_by, columns, vectors, decided, corrected)) }}
    {%- endif -%}
    {{ return(computed_as_of(labels, declared, chosen, known_by, columns, rows, corrected)) }}
{% endmacro %}

{#- Names of the declared columns of the labels: a model's SQL depends only on the project. -#}
{% macro labels_columns(labels) %}
    {%- for node in graph.nodes.values() | list + graph.sources.values() | list -%}
        {%- if node.schema == labels.schema and (node.alias or node.identifier) == labels.identifier and node.columns -%}
            {{ return(node.columns.values() | map(attribute='name') | list) }}
        {%- endif -%}
    {%- endfor -%}
    {{ exceptions.raise_compiler_error(
        "features_as_of: the columns of the labels are not known: declare those of " ~ labels ~ " in its yml, or say columns=[...]"
    ) }}
{% endmacro %}

{#- The requested features, or all that these columns allow; a requested feature that they do not allow is an error. -#}
{% macro features_told_by(declared, asked, columns, stored) %}
    {%- set known = features_of(declared.vectors) -%}
    {%- for name in asked or [] if name not in known | map(attribute='name') -%}
        {{ exceptions.raise_compiler_error("features_as_of: there is no feature '" ~ name ~ "' in " ~ declared.vectors) }}
    {%- endfor -%}
    {%- for name in [declared.id if stored else 'event_time'] if name not in columns -%}
        {{ exceptions.raise_compiler_error("features_as_of: the labels have no column '" ~ name ~ "'") }}
    {%- endfor -%}
    {%- set chosen = [] -%}
    {%- for feature in known if asked is none or feature.name in asked -%}
        {%- set missing = [] if stored else feature.needs | reject('in', columns) | list -%}
        {%- if missing == [] -%}
            {%- do chosen.append(feature) -%}
        {%- elif asked is not none -%}
            {{ exceptions.raise_compiler_error("features_as_of: feature '" ~ feature.name ~ "' needs the columns " ~ missing | join(', ') ~ " of the labels") }}
        {%- endif -%}
    {%- endfor -%}
    {%- if chosen == [] -%}
        {{ exceptions.raise_compiler_error("features_as_of: the labels' columns " ~ columns | join(', ') ~ " have no entity's key in full") }}
    {%- endif -%}
    {%- for feature in chosen if feature.name in columns -%}
        {{ exceptions.raise_compiler_error("features_as_of: the labels have a column named like the feature '" ~ feature.name ~ "'") }}
    {%- endfor -%}
    {{ return(chosen) }}
{% endmacro %}

{#- From the stored vectors: the newest version of each named payment that was known by then. `decided`: when each
    payment could first be decided on, if that limits what counts; none: the decision used its first version. -#}
{% macro stored_as_of(labels, declared, chosen, known_by, columns, vectors, decided, corrected) -%}
    (
        with numbered_labels as {{ computed_once() }} (

            select labels.*, row_number() over () as _lake_label
            from {{ labels }} as labels

        ),

        known_versions as (

            select
                numbered_labels._lake_label,
                row_number() over (partition by numbered_labels._lake_label order by versions.version desc) as _lake_newest,
                {{ 'versions.is_deleted' if declared.kind == 'changes' else 'false' }} as _lake_gone
                {%- for feature in chosen %},
                versions.{{ feature.name }}
                {%- endfor %}
            from numbered_labels
            inner join {{ vectors }} as versions
                on numbered_labels.{{ declared.id }} = versions.{{ declared.id }}
            {%- if decided %}
            left join (
                {{ decided | indent(16) }}
            ) as decided
                on numbered_labels.{{ declared.id }} = decided.{{ declared.id }}
            {%- endif %}
            where {{ version_counts(known_by, columns, decided is not none, corrected) }}

        )

        select
            numbered_labels.* {{ without(['_lake_label']) }}
            {%- for feature in chosen %},
            known_versions.{{ feature.name }}
            {%- endfor %}
        from numbered_labels
        left join known_versions
            on numbered_labels._lake_label = known_versions._lake_label
            and known_versions._lake_newest = 1
            and not known_versions._lake_gone
    ) as told
{%- endmacro %}

{#- Whether a stored version (of versions, joined to numbered_labels and decided) applies to a label: it was known at
    the given moment; without one, when the payment was decided on, which is not before the label's event_time. -#}
{% macro version_counts(known_by, columns, is_bounded, corrected) -%}
    {%- set said = moment_said(known_by, columns) -%}
    {%- set at = 'cast(numbered_labels.event_time as ' ~ instant() ~ ')' if 'event_time' in columns else none -%}
    {%- if corrected -%}
        {%- set unsaid = 'true' -%}
    {%- elif is_bounded -%}
        {%- set unsaid = 'versions.known_at <= ' ~ ('greatest(decided._lake_decided_at, ' ~ at ~ ')' if at else 'decided._lake_decided_at') -%}
    {%- else -%}
        {%- set unsaid = '(versions.version = 1' ~ (' or versions.known_at <= ' ~ at if at else '') ~ ')' -%}
    {%- endif -%}
    {%- if said is none -%}
        {{ unsaid }}
    {%- elif known_by -%}
        versions.known_at <= {{ said }}
    {%- else -%}
        case when {{ said }} is null then {{ unsaid }} else versions.known_at <= {{ said }} end
    {%- endif -%}
{%- endmacro %}

{#- The moment by which counted rows were known, as SQL over numbered_labels: the label's column, else the call's. Null
    if neither is given; none if no label has one. -#}
{% macro moment_said(known_by, columns) %}
    {%- set found = [] -%}
    {%- if 'known_by' in columns -%}{%- do found.append('cast(known_by as ' ~ instant() ~ ')') -%}{%- endif -%}
    {%- if known_by -%}{%- do found.append('cast(' ~ sql_text(known_by) ~ ' as ' ~ instant() ~ ')') -%}{%- endif -%}
    {{ return(('coalesce(' ~ found | join(', ') ~ ')' if found | length > 1 else found[0]) if found else none) }}
{% endmacro %}

{#- The same, with `otherwise` if no moment is given. None: no limit. -#}
{% macro known_by_of(known_by, columns, otherwise) %}
    {%- set said = moment_said(known_by, columns) -%}
    {%- if said is none -%}{{ return(otherwise) }}{%- endif -%}
    {{ return(said if known_by else 'coalesce(' ~ said ~ ', ' ~ (otherwise or end_of_time()) ~ ')') }}
{% endmacro %}

{#- A moment after all others: everything known now was known by then. -#}
{% macro end_of_time() %}{{ return("cast('9999-12-31 00:00:00+00' as " ~ instant() ~ ')') }}{% endmacro %}

{#- The type of a timestamp with time zone, and of one without. -#}
{% macro instant() %}{{ return(adapter.dispatch('instant')()) }}{% endmacro %}
{% macro default__instant() %}{{ return('timestamptz') }}{% endmacro %}
{% macro spark__instant() %}{{ return('timestamp') }}{% endmacro %}
{% macro zoneless() %}{{ return(adapter.dispatch('zoneless')()) }}{% endmacro %}
{% macro default__zoneless() %}{{ return('timestamp') }}{% endmacro %}
{% macro spark__zoneless() %}{{ return('timestamp_ntz') }}{% endmacro %}
