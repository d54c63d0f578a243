"""The table `silver/labels`: its columns, and appending labels that it does not have yet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake, scan
from fraud_lakehouse.storage.new_rows import NewRows
from fraud_lakehouse.storage.schemas import COMMIT, UTC_MICROSECONDS
from fraud_lakehouse.transform.key_index import KeyIndex

LABELS = ("silver", "labels")
CONTENT = ("stream", "transaction_id", "is_fraud", "known_at", "origin", "author", "note")
"""The columns that make a label: a second one that is equal in all of them is not stored."""
SCHEMA: dict[str, pl.DataType] = {
    "stream": pl.String(),
    "transaction_id": pl.String(),
    "is_fraud": pl.Boolean(),
    "known_at": UTC_MICROSECONDS,
    "origin": pl.String(),
    "author": pl.String(),
    "note": pl.String(),
    "input": pl.String(),
    "recorded_at": UTC_MICROSECONDS,
    "_seq": pl.Int64(),
}
"""`input`: the stream, the entry of labels.yml or the file that the label came from. `recorded_at`: when it was written
here. `_seq`: its place among the labels of one commit; of labels known at the same time the last one counts, by
`_commit` and `_seq`."""
OF_SOURCE = "source"
_ATTEMPTS = 20
_KEY = ("stream", "transaction_id", "origin")


class LabelTable:
    """The table, open for appending by one thread. It is created with the first call of `add`."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._appender: Appender | None = None
        self._new = NewRows(lake, LABELS)
        self._index = KeyIndex()

    def position(self, app_id: str) -> int | None:
        """The position of an input as last committed; None: it has none."""
        table = self._open()
        table.refresh()
        return table.position(app_id)

    def add(self, labels: pl.DataFrame, positions: Mapping[str, int] | None = None) -> int:
        """Append the labels that the table does not have, and the positions of their input, in one commit.

        Args:
            labels: the columns `CONTENT` and `input`, in the order in which they became known; for labels with the
                origin `source` also `recorded` (the time of their record) and `is_first_known_later` (whether the
                payment itself came without a label).

        Returns:
            the number of labels appended.

        Raises:
            ConcurrentWriterError: other writers were faster each time; nothing was appended.
            LakeError: the lake cannot be read or written.
        """
        table = self._open()
        for attempt in range(_ATTEMPTS):
            table.refresh()
            fresh = self._unknown(labels)
            if fresh.is_empty() and not positions:
                return 0
            now = pl.lit(datetime.now(UTC)).cast(UTC_MICROSECONDS).alias("recorded_at")
            rows = fresh.with_columns(now, pl.int_range(pl.len()).alias("_seq")).select(*SCHEMA)
            try:
                table.append(rows, dict(positions or {}))
            except ConcurrentWriterError:  # the handle is at the other writer's commit now
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            return rows.height
        raise AssertionError("unreachable")

    def _open(self) -> Appender:
        if self._appender is None:
            self._appender = Appender.open(self._lake, *LABELS, SCHEMA)
        return self._appender

    def _unknown(self, labels: pl.DataFrame) -> pl.DataFrame:
        """The labels that the table does not have, in their order."""
        if labels.is_empty():
            return labels.select(*CONTENT, "input")
        self._update_index()
        labels = labels.with_row_index("_row").with_columns(_hash())
        stored = self._index.find(labels["_hash"]).cast(pl.UInt64, strict=False, wrap_numerical=True)
        is_known = pl.col("_hash").is_in(stored.implode()) | pl.col("_hash").is_duplicated()
        candidates = labels.filter(is_known)
        if candidates.is_empty():
            return labels.select(*CONTENT, "input")
        known = self._stored(candidates)
        of_source = candidates["origin"] == OF_SOURCE
        fresh = [labels.filter(~is_known), _changed(candidates.filter(of_source), known)]
        others = candidates.filter(~of_source).unique(CONTENT, keep="first", maintain_order=True)
        fresh.append(others.join(known, on=CONTENT, how="anti", nulls_equal=True))
        return pl.concat([one.select("_row", *CONTENT, "input") for one in fresh]).sort("_row").drop("_row")

    def _update_index(self) -> None:
        """Add the labels that this or another process has appended since the last call."""
        new = self._new.read()
        if not new.only_new:  # the table was replaced
            self._index = KeyIndex()
            self._new.forget()
            new = self._new.read()
        if new.rows is not None:
            hashes = new.rows.select(*_KEY).collect().select(_hash())["_hash"]
            rows = hashes.cast(pl.Int64, wrap_numerical=True)
            added = pl.DataFrame({"hash": hashes, "row": rows})
            self._index.add(added, self._index.covered + added.height)

    def _stored(self, candidates: pl.DataFrame) -> pl.DataFrame:
        """The stored labels of the candidates' payments."""
        assert self._appender is not None
        ids = candidates.select("stream", "transaction_id").unique()
        rows = scan(self._lake.open(*LABELS)).select(*CONTENT, COMMIT, "_seq")
        return rows.filter(pl.col("transaction_id").is_in(ids["transaction_id"].implode())).collect()


def _hash() -> pl.Expr:
    return pl.concat_str(*(pl.col(name) for name in _KEY), separator="\0").hash().alias("_hash")


def _changed(sent: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Of labels that a stream has sent, those that differ from the label before.

    A later label is known at the time of its own record, but not before the label that it replaces.
    """
    key = ["stream", "transaction_id"]
    newest = (
        known.filter(pl.col("origin") == OF_SOURCE)
        .sort("known_at", COMMIT, "_seq")
        .unique(key, keep="last")
        .select(*key, "is_fraud", "known_at", pl.lit(-1, pl.Int64).alias("_row"))
    )
    sent = sent.with_columns(pl.col("_row").cast(pl.Int64))
    versions = pl.concat([newest, sent], how="diagonal").sort("_row")
    before = pl.col("is_fraud").shift(1).over(key)
    is_later = before.is_not_null() & (pl.col("_row") >= 0)
    return (
        versions.with_columns(before.alias("_before"), is_later.alias("_is_later"))
        .filter((pl.col("_row") < 0) | pl.col("_before").is_null() | (pl.col("is_fraud") != pl.col("_before")))
        .with_columns(pl.when("_is_later").then("recorded").otherwise("known_at").alias("known_at"))
        .with_columns(pl.col("known_at").cum_max().over(key))
        .filter(pl.col("_row") >= 0)
        .with_columns(pl.col("_row").cast(pl.UInt32))
    )


def label_counts(lake: Lake) -> pl.DataFrame:
    """By stream and origin: `labels`, `payments` with one, `frauds` (by the newest label) and `changed`.

    `changed` counts payments whose label was another one before, such as those that were sent again with another label.
    """
    if not lake.exists(*LABELS):
        return pl.DataFrame()
    rows = scan(lake.open(*LABELS)).sort("known_at", COMMIT, "_seq")
    by_payment = rows.group_by(_KEY).agg(
        pl.len().alias("labels"),
        pl.col("is_fraud").last().alias("frauds"),
        (pl.col("is_fraud").n_unique() > 1).alias("changed"),
    )
    counted = by_payment.group_by("stream", "origin").agg(
        pl.col("labels").sum(), pl.len().alias("payments"), pl.col("frauds").sum(), pl.col("changed").sum()
    )
    return counted.sort("stream", "origin").collect()
