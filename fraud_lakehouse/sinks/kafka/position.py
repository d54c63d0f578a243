"""How far one topic is published: a value that is committed to Kafka inside the transaction of the messages.

The group's offset of partition 0 is the number of rows published; its metadata says up to where, as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

_SHORT = {"table": "t", "commit": "c", "until": "u", "time": "m", "at_time": "k", "epoch": "e", "version": "v"}


@dataclass(frozen=True)
class Position:
    """Rows of a `_versions` table that are published.

    Args:
        table: the Delta table's id: a table made anew has another.
        commit: every row of the table's commits up to this number is published; -1: not every row of any.
        until: a stretch under way: the rows of later commits up to this one, in their order; None: none is.
        time: of the stretch, event time of the last row published, in microseconds since 1970.
        at_time: of the stretch, how many rows of that event time are published.
        epoch: how often the table was built anew since it was first published.
        published: messages so far, of all epochs.
        version: of a position that version 0.1 wrote, a Delta version in place of `commit`, as `until` is one then.
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
        """The newest commit this knows of."""
        return max(self.commit, self.until if self.until is not None else -1)

    def after(self, times: list[int], until: int) -> Position:
        """The position when rows with these event times, in order, are published too.

        Args:
            until: the commit that the stretch reaches.
        """
        if not times:
            return replace(self, until=until)
        last = times[-1]
        same = sum(1 for time in times if time == last)
        if self.until is not None and self.time == last:
            same += self.at_time
        return replace(self, until=until, time=last, at_time=same, published=self.published + len(times))

    def finished(self, commit: int) -> Position:
        """The position when the stretch up to `commit` is published whole."""
        return replace(self, commit=commit, until=None, time=None, at_time=0)

    def text(self) -> str:
        """What is committed beside the offset; under 200 bytes."""
        values = {short: getattr(self, name) for name, short in _SHORT.items()}
        return json.dumps({name: value for name, value in values.items() if value is not None}, separators=(",", ":"))

    @staticmethod
    def parse(text: str, published: int) -> Position:
        """The position of a committed offset and its metadata.

        Raises:
            ValueError: this program did not write it.
        """
        values: Any = json.loads(text)
        long = {short: name for name, short in _SHORT.items()}
        if not isinstance(values, dict) or not {"t"} <= values.keys() <= long.keys():
            raise ValueError(f"not a position: {text!r}")
        return Position(published=published, **{long[short]: value for short, value in values.items()})
