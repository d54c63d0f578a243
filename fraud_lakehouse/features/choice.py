"""Which features can be told of labels: all that their columns allow, or those asked for, or a refusal by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from fraud_lakehouse.errors import LabelsError
from fraud_lakehouse.features.catalogue import Catalogue, Feature, Source

EVENT_TIME = "event_time"
KNOWN_BY = "known_by"


def source_named(catalogue: Catalogue, name: str) -> Source:
    """The source of this name.

    Raises:
        LabelsError: there is none.
    """
    if name not in catalogue.sources:
        raise LabelsError(f"there is no source {name!r}", f"use one of {', '.join(catalogue.sources)}")
    return catalogue.sources[name]


def chosen_features(
    catalogue: Catalogue, source: Source, asked: Sequence[str] | None, columns: Sequence[str], *, stored: bool
) -> list[Feature]:
    """The features to tell of labels with these columns, in the order of the catalogue.

    Args:
        asked: names; None: every one whose columns the labels have.
        stored: whether the labels name payments, so that no other column is needed.

    Raises:
        LabelsError: a feature is unknown or needs a column the labels lack; a column they must have is not there; a
            column is named like a feature.
    """
    known = {feature.name: feature for feature in catalogue.of_table(source.table)}
    for name in asked or ():
        if name not in known:
            raise LabelsError(f"there is no feature {name!r} in {source.table}", _likely(name, known))
    must = source.id if stored else EVENT_TIME
    if must not in columns:
        raise LabelsError(
            f"the labels have no column {must}: they have {', '.join(columns) or 'none'}",
            f"name the payment in {source.id}" if stored else f"give the moment of decision (UTC) in {EVENT_TIME}",
        )
    told = []
    for feature in known.values() if asked is None else (known[name] for name in known if name in set(asked)):
        missing = [] if stored else [name for name in catalogue.needed(feature)["needs"] if name not in columns]
        if missing and asked is not None:
            raise LabelsError(
                f"feature {feature.name} needs the label columns {', '.join(missing)}", "add them, or leave it out"
            )
        if not missing:
            told.append(feature)
    if not told:
        keys = "; ".join(f"{name}: {', '.join(entity.key)}" for name, entity in source.entities.items())
        raise LabelsError(f"the columns {', '.join(columns)} hold no entity's key in full", f"give one of {keys}")
    for feature in told:
        if feature.name in columns:
            raise LabelsError(f"the labels have a column {feature.name}, as a feature is named", "rename that column")
    return told


def _likely(name: str, known: dict[str, Feature]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {', '.join(close)}?" if close else "`fraud-lakehouse features list` names them"
