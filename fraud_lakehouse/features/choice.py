"""Chooses the features to compute for labels: all that their columns allow, or those requested."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from fraud_lakehouse.errors import LabelsError
from fraud_lakehouse.features.catalogue import Catalogue, Feature
from fraud_lakehouse.features.streams import PaymentStream

EVENT_TIME = "event_time"
KNOWN_BY = "known_by"
ALIASES = {"cards": "card_payments", "bank": "bank_payments"}
"""The shipped streams' names before streams had names."""


def stream_named(catalogue: Catalogue, name: str) -> PaymentStream:
    """The stream of this name or alias.

    Raises:
        LabelsError: there is none.
    """
    name = name if name in catalogue.streams else ALIASES.get(name, name)
    if name not in catalogue.streams:
        raise LabelsError(f"there is no stream {name!r}", f"use one of {', '.join(catalogue.streams)}")
    return catalogue.streams[name]


def text_columns(stream: PaymentStream) -> list[str]:
    """Label columns that are text in the stream's rows: digits from a file stay text."""
    keys = dict.fromkeys(column for entity in stream.entities.values() for column in entity.key)
    own = [stream.id] if stream.kind == "events" else []
    return [*own, *(name for name in keys if stream.fields.get(name) == "varchar" and name not in own)]


def chosen_features(
    catalogue: Catalogue,
    stream: PaymentStream,
    requested: Sequence[str] | None,
    columns: Sequence[str],
    *,
    stored: bool,
) -> list[Feature]:
    """The features to compute for labels with these columns, in the order of the catalogue.

    Args:
        asked: names; None: every feature whose columns the labels have.
        stored: whether the labels name payments, so that no other column is needed.

    Raises:
        LabelsError: a feature is unknown, or needs a column that the labels lack; a required column is missing; a
            column has the name of a feature.
    """
    known = {feature.name: feature for feature in catalogue.of_table(stream.vectors)}
    for name in requested or ():
        if name not in known:
            raise LabelsError(f"there is no feature {name!r} in {stream.vectors}", _likely(name, known))
    must = stream.id if stored else EVENT_TIME
    if must not in columns:
        raise LabelsError(
            f"the labels have no column {must}: they have {', '.join(columns) or 'none'}",
            f"name the payment in {stream.id}" if stored else f"give the moment of decision (UTC) in {EVENT_TIME}",
        )
    reported = []
    for feature in known.values() if requested is None else (known[name] for name in known if name in set(requested)):
        missing = [] if stored else [name for name in catalogue.needed(feature)["needs"] if name not in columns]
        if missing and requested is not None:
            raise LabelsError(
                f"feature {feature.name} needs the label columns {', '.join(missing)}", "add them, or leave it out"
            )
        if not missing:
            reported.append(feature)
    if not reported:
        keys = "; ".join(f"{name}: {', '.join(entity.key)}" for name, entity in stream.entities.items())
        raise LabelsError(f"the columns {', '.join(columns)} contain no entity's key", f"give one of {keys}")
    for feature in reported:
        if feature.name in columns:
            raise LabelsError(f"the labels have a column {feature.name}, a feature's name", "rename that column")
    return reported


def _likely(name: str, known: dict[str, Feature]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {', '.join(close)}?" if close else "`fraud-lakehouse features list` names them"
