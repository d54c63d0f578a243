"""Detection: features of labels as of their own times; labelling, scores and models follow later. No Dagster here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from fraud_lakehouse.settings import Settings
    from fraud_lakehouse.transform.runner import Transformer


def as_of(
    labels: pl.DataFrame,
    stream: str = "card_payments",
    *,
    features: Sequence[str] | None = None,
    known_by: datetime | None = None,
    stored: bool | None = None,
    corrected: bool = False,
    settings: Settings | None = None,
    transformer: Transformer | None = None,
) -> pl.DataFrame:
    """The labels with features, each as of its own time: a training set that never looks ahead.

    Args:
        labels: one row per decision. `event_time`: its time (without zone: UTC). Keys (`user_id`, `cc_num`, `merchant`,
            `category`) and amounts (`amt`, bank: `amount`) as far as features need them. `trans_num` (bank:
            `transaction_id`): the payment whose stored vector is wanted. `known_by`: the time by which
            counted rows must have been known.
        stream: its name in streams.yml; cards and bank are the shipped ones.
        features: names; None: all that the labels' columns allow.
        known_by: for labels without their own. None: what was known when the label was decided. For cards, rows that
            arrived in time; for the bank, rows committed by event_time; for stored vectors, the version that decided
            the payment, or a newer one known by the label's event_time.
        stored: read stored vectors (True) or compute from silver (False); None: stored if the labels name payments.
        corrected: for labels without known_by, use what is known now, including late rows and later corrections: the
            newest version of a stored vector. Looks past the decision, though not past event times.
        settings: default: from the environment.
        transformer: a warm one over the same settings; default: a new one for this call, which takes seconds.

    Returns:
        The labels' rows and columns in their order, and a column for each feature in the catalogue's order. Null if the
        key or the time is null, or if no stored version was known by then (a warning counts these). If no row counts,
        the feature's `empty` (0 for counts).

    Raises:
        LabelsError: a column or feature is unknown, missing or of another type; known_by and corrected are both given.
        LakeError: a table is not in the lake.
        TransformError: dbt cannot render the query.
    """
    from fraud_lakehouse.detection.labelled import features_as_of
    from fraud_lakehouse.settings import load_settings
    from fraud_lakehouse.transform.runner import Transformer

    settings = settings or load_settings()
    own = Transformer(settings) if transformer is None else None
    try:
        return features_as_of(
            own or transformer,  # type: ignore[arg-type]
            settings,
            labels,
            stream,
            features,
            known_by,
            stored,
            corrected=corrected,
        )
    finally:
        if own is not None:
            own.close()
