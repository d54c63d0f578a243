"""Detection: features of labels as of their own times; later labels, scores and models. No Dagster here."""

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
            `category`) and amounts (`amt`, of the bank `amount`) as far as features need them. `trans_num` (of the bank
            `transaction_id`): the payment whose stored vector is wanted. `known_by`: by when what counts was known.
        stream: its name in streams.yml; cards and bank are the shipped ones.
        features: names; None: all that the labels' columns allow.
        known_by: for labels without one of their own. None: what was known when the label was decided. Of cards that is
            all that came in time, of the bank what was committed by event_time; of stored vectors the version the
            payment was decided on, or a newer one known by the label's event_time.
        stored: take stored vectors (True) or compute from silver (False); None: stored if the labels name payments.
        corrected: for labels without known_by take what is known by now, so late rows and later changes of the past
            too: the newest version of a stored vector. Looks ahead of the decision, though not of event times.
        settings: default: from the environment.
        transformer: a warm one over the same settings; default: one is made for this call, which takes seconds.

    Returns:
        The labels' rows and columns in their order, and a column for each feature in the catalogue's order. Null where
        the key or the time is null, and where no stored version was known by then (a warning tells how many); where no
        row counts, the feature's `empty` (0 of counts).

    Raises:
        LabelsError: names the column or feature that is unknown, missing or of another type; or both known_by and
            corrected are given.
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
