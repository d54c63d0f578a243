"""The catalogue of features: reads and checks `features.yml`, and expands its families to single features.

No feature is computed here: the models render `Catalogue.variables()`, and the columns of their tables come from
`Catalogue.of_table()`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.aggregates import aggregate as aggregate_of
from fraud_lakehouse.features.aggregates import of_rows
from fraud_lakehouse.features.arrival import ARRIVAL, COUNTED, EVER, check_ledger, known_on_arrival
from fraud_lakehouse.features.checks import check_measured, check_names, check_place, check_streams, check_tables
from fraud_lakehouse.features.entries import ALL, DELAYS, STEPPED, CatalogueFile, Entry
from fraud_lakehouse.features.filtered import check_filter, filtered_measure
from fraud_lakehouse.features.measured import entry_of, measured_streams
from fraud_lakehouse.features.needs import columns_of, needed_of, row_columns
from fraud_lakehouse.features.streams import Past, PaymentStream
from fraud_lakehouse.features.window import Window

__all__ = ["FILE", "Catalogue", "Feature", "load_catalogue"]

FILE = "features.yml"
_COUNTED = {
    "strict": "event time in [t - {window}, t): the {event} itself and those of equal time do not count",
    "closed": "event time in [t - {window}, t]: the {event} itself and those of equal time count",
    "tumble": "event time in the window of {window}, aligned to the epoch, start included, end excluded",
    "hop": "event time in the window of {window}, one of which starts every {step}, aligned to the epoch, end excluded",
    "cumulate": "event time in the window that grows by {step} up to {window}, aligned to the epoch, end excluded",
    "session": "event time in the session: a run of {event}s each less than {window} after the one before",
    **COUNTED,
}
_KNOWN = (
    "event time in [t - delay - {window}, t - delay): those whose {measure} became known in the {window} before t, "
    "with delay {delay} after the {event}"
)
_EVER = "event time before t, however long ago: the {event} itself and those of equal time do not count"
_FIELDS = re.compile(r"\{(\w+)\}")
T = TypeVar("T")


@dataclass(frozen=True)
class Feature:
    """One feature, fully expanded.

    Args:
        table: the model that has it as the column `name`.
        seconds: size of the window; for a session, the gap that ends it; None: all earlier rows.
        filter: SQL over a row's columns; rows for which it is not true do not count. None: every row counts.
        step_seconds: the distance between window starts, or the growth per step; None: its windows have no step.
        delay: of its measure, a key of DELAYS; None: the value is known with the row.
        expression: for a feature computed from others, the SQL over their names; else None.
        empty: its value if no row counts.
    """

    name: str
    stream: str
    table: str
    entity: str
    measure: str | None
    filter: str | None
    aggregate: str | None
    window: str | None
    seconds: int | None
    step_seconds: int | None
    past: Past
    delay: str | None
    expression: str | None
    data_type: str
    empty: str
    definition: str
    unit: str
    owner: str

    def column(self) -> dict[str, Any]:
        """Its column in dbt's documentation: the description is the definition; the rest (also a delay) is meta."""
        meta = {"entity": self.entity, "unit": self.unit, "owner": self.owner, "window": self.window or "all earlier"}
        if self.delay is not None:
            meta["delay"] = DELAYS[self.delay]
        if self.filter is not None:
            meta["filter"] = self.filter
        described = {"name": self.name, "data_type": self.data_type, "description": self.definition}
        return {**described, "config": {"meta": meta}}


@dataclass(frozen=True)
class Catalogue:
    """All features, and the streams they are computed from."""

    streams: dict[str, PaymentStream]
    features: list[Feature]

    def of_table(self, table: str) -> list[Feature]:
        """The features of one table, in the order of the file."""
        return [feature for feature in self.features if feature.table == table]

    def tables(self) -> list[str]:
        """Tables with features."""
        return list(dict.fromkeys(feature.table for feature in self.features))

    def of_streams(self, names: Collection[str]) -> Catalogue:
        """The catalogue of these streams only."""
        streams = {name: stream for name, stream in self.streams.items() if name in names}
        return Catalogue(streams, [feature for feature in self.features if feature.stream in names])

    def beside(self, table: str) -> list[str]:
        """Other models with a table's features: the one that computes them, and those that copy them."""
        declared = [stream.tables[table] for stream in self.streams.values() if table in stream.tables]
        return [name for one in declared for name in (one.model, *one.copies) if name is not None]

    def variables(self) -> dict[str, Any]:
        """The vars that models read: `streams` by name, as plain values; `features`, a list, as JSON text.

        The list is long, and dbt reads its project file about ten times per command: YAML reads text 30 times as fast.
        A feature with a filter aggregates its own measure (filtered.py), which is added to the streams.
        """
        streams = {name: stream.model_dump() for name, stream in self.streams.items()}
        features = []
        for feature in self.features:
            plain = asdict(feature) | self.needed(feature)
            if feature.filter is not None:
                plain["measure"], measure = filtered_measure(self.streams[feature.stream], feature)
                streams[feature.stream]["measures"][plain["measure"]] = measure.model_dump()
            features.append(plain)
        for stream in streams.values():
            for measure in stream["measures"].values():
                measure["columns"] = row_columns(stream["time"], measure["expression"])
        return {"streams": streams, "features": json.dumps(features)}

    def plain(self) -> dict[str, Any]:
        """The catalogue as JSON values; see `of_plain`."""
        streams = {name: stream.model_dump() for name, stream in self.streams.items()}
        return {"streams": streams, "features": [asdict(feature) for feature in self.features]}

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> Catalogue:
        """The catalogue from the result of `plain`."""
        streams = {name: PaymentStream.model_validate(stream) for name, stream in plain["streams"].items()}
        return Catalogue(streams, [Feature(**feature) for feature in plain["features"]])

    def needed(self, feature: Feature) -> dict[str, Sequence[str]]:
        """What must be known of a row before the feature can be computed for it (features/needs.py)."""
        beside = {other.name: other for other in self.of_table(feature.table) if other.expression is None}
        return needed_of(feature, self.streams[feature.stream], beside)


def load_catalogue(path: Path, streams: Mapping[str, PaymentStream], *, is_own: bool = True) -> Catalogue:
    """Read and check a catalogue.

    Args:
        streams: those it may refer to; their measures and tables come from the file.
        is_own: whether the file is of the pipeline folder that declares them; entries for other streams of one that is
            not are left out.

    Raises:
        TransformError: names the entry, what is wrong and what was expected.
    """
    try:
        file = CatalogueFile.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise TransformError(f"{path.name} is not YAML: {error}", "correct it") from None
    except ValidationError as error:
        raise TransformError(f"{path.name}: {_problems(error, path)}", "correct the entry it names") from None
    measured = measured_streams(streams, file, path.name)
    check_streams(measured, path.name)
    features: list[Feature] = []
    for entry in file.features:
        try:
            for stream in _streams_of(measured, entry, is_own=is_own):
                features += _family(stream, entry_of(stream, entry))
        except TransformError as error:
            raise TransformError(f"{path.name}, feature {entry.name!r}: {error.problem}", error.fix) from None
    check_names(features, measured, path.name)
    check_tables(features, measured, path.name)
    resolved = [_resolved(feature, features, measured, path.name) for feature in features]
    return Catalogue(_with_late_windows(measured, resolved), resolved)


def _streams_of(streams: Mapping[str, PaymentStream], entry: Entry, *, is_own: bool) -> list[PaymentStream]:
    """The streams that an entry applies to."""
    named = [*entry.except_, *(_list(entry.stream) if entry.stream != ALL else [])]
    for name in named if is_own else ():
        _one_of(streams, name, "stream")
    if entry.stream == ALL:
        return [stream for name, stream in streams.items() if name not in entry.except_]
    return [streams[name] for name in _list(entry.stream) if name in streams]


def _with_late_windows(streams: Mapping[str, PaymentStream], features: list[Feature]) -> dict[str, PaymentStream]:
    """The streams with the window size that decides which of their events are late: their first tumbling windows."""
    sizes = {feature.stream: feature.seconds for feature in reversed(features) if feature.past == "tumble"}
    return {
        name: stream.model_copy(update={"late_window_seconds": sizes[name]}) if name in sizes else stream
        for name, stream in streams.items()
    }


def _family(stream: PaymentStream, entry: Entry) -> list[Feature]:
    if (entry.expression is None) == (entry.aggregate is None):
        raise TransformError("it needs either an aggregate or an expression", "give it exactly one of them")
    if entry.expression is not None and (entry.definition is None or entry.unit is None):
        raise TransformError("no definition is generated for an expression", "give it a definition and a unit")
    if entry.filter is not None:
        check_filter(stream, entry)
    combinations = itertools.product(*(_list(part) for part in (entry.entity, entry.measure)), _list(entry.aggregate))
    windows = [Window.parse(text) if text is not None else None for text in _list(entry.window)]
    return [
        _feature(stream, entry, str(entity), measure, aggregate, window)
        for entity, measure, aggregate in combinations
        for window in windows
    ]


def _feature(
    stream: PaymentStream, entry: Entry, entity: str, measure: str | None, aggregate: str | None, window: Window | None
) -> Feature:
    who = _one_of(stream.entities, entity, "entity")
    what = _one_of(stream.measures, measure, "measure") if measure is not None else None
    kind = aggregate_of(aggregate) if aggregate is not None else None
    past = cast(Past, entry.past)
    if kind is not None and aggregate == "count" and measure is None and entry.filter is not None:
        kind = of_rows(kind)
    if aggregate is not None and kind is not None and past in ARRIVAL:
        kind = known_on_arrival(aggregate, kind, measure, window)
    check_measured(stream, aggregate, kind, measure, past)
    if kind is not None and kind.windowed != (window is not None):
        raise TransformError(
            f"the aggregate {aggregate} {'needs a' if kind.windowed else 'takes no'} window",
            'give it one, such as "10 minutes"' if kind.windowed else "leave it out",
        )
    table = entry.table or stream.vectors
    is_fit = kind is not None and (window is not None or past in ARRIVAL)
    check_place(stream, table, entity, past, is_windowed_aggregate=is_fit)
    if past in ARRIVAL:
        check_ledger(stream, table, measure, entry.filter, window)
    step = Window.parse(stream.tables[table].step or "") if past in STEPPED else None
    delay = what.delay if what is not None else None
    unit = (kind.unit if kind else None) or (what.unit if what else "")
    texts = {
        "entity": entity,
        "measure": measure or "",
        "aggregate": aggregate or "",
        "window": window.short if window else "",
    }
    words = {
        "about": who.about,
        "event": stream.event,
        "measure": what.about if what else "",
        "window": window.text if window else "",
        "step": step.text if step else "",
        "filter": entry.filter or "",
    }
    counted = _COUNTED[past] if window is not None else EVER.get(past, _EVER)
    if delay is not None:
        counted, words["delay"] = _KNOWN, DELAYS[delay]
    words["counted"] = _filled(counted, words)
    condition = ", of those with {filter}" if entry.filter is not None else ""
    reported = f"{kind.words}{condition}, of {{about}}; {counted}." if kind else ""
    return Feature(
        name=_filled(entry.name, texts),
        stream=stream.name,
        table=table,
        entity=entity,
        measure=measure,
        filter=entry.filter,
        aggregate=aggregate,
        window=window.text if window else None,
        seconds=window.seconds if window else None,
        step_seconds=step.seconds if step else None,
        past=past,
        delay=delay,
        expression=_filled(entry.expression, texts) if entry.expression is not None else None,
        data_type=kind.data_type if kind else "double",
        empty=kind.empty if kind else "null",
        definition=_filled(entry.definition or reported, words).strip(),
        unit=_filled(entry.unit or unit, words),
        owner=entry.owner,
    )


def _resolved(feature: Feature, features: list[Feature], streams: Mapping[str, PaymentStream], file: str) -> Feature:
    """The feature with the names in its expression checked and unbraced."""
    if feature.expression is None:
        return feature
    beside = {other.name for other in features if other.table == feature.table and other.expression is None}
    measures = streams[feature.stream].measures
    known = beside | set(measures)
    expression, where = _FIELDS.sub(r"\1", feature.expression), f"{file}, feature {feature.name!r}"
    try:
        named = columns_of(expression)
    except TransformError as error:
        raise TransformError(f"{where}: {error.problem}", error.fix) from None
    for name in named:
        if name in measures and (delay := measures[name].delay) is not None:
            raise TransformError(
                f"{where}: its expression uses {name!r} of the row itself",
                f"that is known only {DELAYS[delay]} later: name a feature that aggregates it",
            )
        if name not in known:
            raise TransformError(
                f"{where}: its expression names {name!r}",
                "name a measure or a feature of the same table that has an aggregate",
            )
    return replace(feature, expression=expression)


def _filled(template: str, texts: dict[str, str]) -> str:
    """The template with its known fields filled in; other braces stay."""
    return _FIELDS.sub(lambda found: texts.get(found[1], found[0]), template)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _one_of(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise TransformError(f"unknown {what} {name!r}", f"use one of {', '.join(known)}")
    return known[name]


def _problems(error: ValidationError, path: Path) -> str:
    entries = (yaml.safe_load(path.read_text()) or {}).get("features") or []
    reported = []
    for problem in error.errors():
        place = list(problem["loc"])
        if place[:1] == ["features"] and len(place) > 1 and isinstance(place[1], int):
            entry = entries[place[1]]
            place[:2] = [f"feature {entry['name']!r}" if isinstance(entry, dict) and "name" in entry else place[1]]
        reported.append(f"{'.'.join(str(part) for part in place)}: {problem['msg']}")
    return "; ".join(reported)
