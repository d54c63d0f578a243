"""The two topics of the reference features: which table each comes from, and how a row becomes a message.

The keys of the body and their order are the reference's; facts about corrections (version, deletion, epoch) are in the
headers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl

TIME = "%Y-%m-%d %H:%M:%S"
MEAN, COUNT = "user_mean_trans_amt_last_360min", "user_trans_count_last_360min"
LAKE, VERSION, EPOCH, DELETED, TRANS_NUM = "lake", "version", "epoch", "deleted", "trans_num"

_ENCODER = msgspec.json.Encoder()
Headers = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Message:
    """One record: key (None if the row has no user), JSON body, headers."""

    key: bytes | None
    value: bytes
    headers: Headers


@dataclass(frozen=True)
class FeatureTopic:
    """A `_versions` table of layer gold and the topic to which its rows are published.

    Args:
        table: the table; each of its rows has a version.
        name: the topic.
        body: columns of the JSON body, in order.
        key: columns that identify what a row is a version of; together with `version` they are unique.
        time: the event time by which rows are ordered.
    """

    table: str
    name: str
    body: tuple[str, ...]
    key: tuple[str, ...]
    time: str

    @property
    def order(self) -> list[str]:
        """Columns of a total order of the rows: event time, then key and version."""
        return [self.time, *(name for name in self.key if name != self.time), "version"]

    @property
    def columns(self) -> list[str]:
        """Columns of the table that are read."""
        return list(dict.fromkeys([*self.body, *self.key, "version", *self._withdrawn]))

    @property
    def _withdrawn(self) -> list[str]:
        return [] if "trans_num" in self.key else ["is_deleted"]

    def messages(self, rows: pl.DataFrame, lake: str, epoch: int) -> Iterator[Message]:
        """The rows as messages, in order.

        Args:
            rows: columns as in `columns`.
            lake: identity of the lake, for a header.
            epoch: how often the table was rebuilt; for 0 there is no header.
        """
        shown = rows.with_columns(_text(name).alias(name) for name in self.body if rows.schema[name].is_temporal())
        constant: Headers = [(LAKE, lake.encode())] + ([(EPOCH, str(epoch).encode())] if epoch else [])
        places = {name: place for place, name in enumerate(shown.columns)}
        body = [(name, places[name]) for name in self.body]
        version, user = places["version"], places["user_id"]
        trans_num, deleted = places.get("trans_num"), places.get("is_deleted")
        for row in shown.iter_rows():
            headers = [(VERSION, str(row[version]).encode()), *constant]
            if trans_num is not None:
                headers.append((TRANS_NUM, row[trans_num].encode()))
            if deleted is not None and row[deleted]:
                headers.append((DELETED, b"true"))
            key = None if row[user] is None else str(row[user]).encode()
            yield Message(key, _ENCODER.encode({name: row[place] for name, place in body}), headers)


def feature_topics(prefix: str) -> list[FeatureTopic]:
    """The topics, their names prefixed as in the settings."""
    over, tumble = "user_trans_amt_last_360min", "user_trans_amt_last_360min_windowed"
    return [
        FeatureTopic(
            f"{over}_versions",
            f"{prefix}{over}",
            ("user_id", MEAN, COUNT, "trans_date_trans_time"),
            ("trans_num",),
            "trans_date_trans_time",
        ),
        FeatureTopic(
            f"{tumble}_versions",
            f"{prefix}{tumble}",
            ("window_start", "window_end", "user_id", MEAN, COUNT),
            ("window_start", "user_id"),
            "window_start",
        ),
    ]


def text_headers(headers: Any) -> Mapping[str, str]:
    """A consumed message's headers as text."""
    return {name: (value or b"").decode(errors="replace") for name, value in headers or ()}


def _text(name: str) -> pl.Expr:
    """A time in the reference's format; a fraction of a second, which the reference never has, is kept."""
    moment = pl.col(name)
    whole, exact = moment.dt.strftime(TIME), moment.dt.strftime(f"{TIME}%.6f")
    return pl.when(moment.dt.microsecond() == 0).then(whole).otherwise(exact)
