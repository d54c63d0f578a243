"""How far one topic is published: committed to Kafka in the same transaction as the messages.

The group's offset of partition 0 is the number of rows published; its metadata, as JSON, is the position in the table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

_SHORT = {"table": "t", "commit": "c", "until": "u", "time": "m", "at_time": "k", "epoch": "e", "version": "v"}


@dataclass(frozen=True)
class Position:
    """Which rows of a `_versions` table are published.

    Args:
        table: the Delta table's id; a recreated table has another.
        commit: every row of the table's commits up to this number is published; -1: no commit completely.
        until: the range in progress: rows of later commits up to this one, in order; None: no range.
        time: event time of the range's last published row, in microseconds since 1970.
        at_time: number of the range's published rows with that event time.
        epoch: how often the table was rebuilt since it was first published.
        published: messages so far, in all epochs.
        version: only in a position written by version 0.1: a Delta version instead of `commit`; `until` is one too.
    """

    table: str
    commit: int = -1
    until: int | None = None
    time: int | None = None
    at_time: int = 0
    epoch: int = 0
    published: int = 0
    version: int | None = None

    @property
    def newest(self) -> int:
        """The newest commit that this position names."""
        return max(self.commit, self.until if self.until is not None else -1)

    def after(self, times: list[int], until: int) -> Position:
        """The position after rows with these event times, in order, are published too.

        Args:
            until: the last commit of the range.
        """
        if not times:
            return replace(self, until=until)
        last = times[-1]
        same = sum(1 for time in times if time == last)
        if self.until is not None and self.time == last:
            same += self.at_time
        return replace(self, until=until, time=last, at_time=same, published=self.published + len(times))

    def finished(self, commit: int) -> Position:
        """The position after the whole range up to `commit` is published."""
        return replace(self, commit=commit, until=None, time=None, at_time=0)

    def text(self) -> str:
        """The offset's metadata; under 200 bytes."""
        values = {short: getattr(self, name) for name, short in _SHORT.items()}
        return json.dumps({name: value for name, value in values.items() if value is not None}, separators=(",", ":"))

    @staticmethod
    def parse(text: str, published: int) -> Position:
        """The position from a committed offset and its metadata.

        Raises:
            ValueError: this program did not write it.
        """
        values: Any = json.loads(text)
        long = {short: name for name, short in _SHORT.items()}
        if not isinstance(values, dict) or not {"t"} <= values.keys() <= long.keys():
            raise ValueError(f"not a position: {text!r}")
        return Position(published=published, **{long[short]: value for short, value in values.items()})
