"""An index of the events in each event's windows, and their totals: searched, not summed again for each row.

Events are in order of time. For each entity they are also sorted by (key, time). A strictly past window is then a range
of positions, found by binary search, and a total is the difference of two running totals. Totals are integers of 128
bits: neither order nor starting point changes a digit. SQL computes features from totals (dbt_project/macros/features),
and computes the same by itself without this index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

UNITS = "units_of_"
_MOST = 2**62
_PLACE = pl.UInt32  # 4,294,967,295 events, which is also what polars counts to


@dataclass(frozen=True)
class Wanted:
    """The results wanted for an entity.

    `totals`: (n, s or q, measure, seconds, delay) for count, sum and sum of squares of column units_of_<measure>
    (bigint) over the events of [t - delay - seconds, t - delay); the delay is in seconds too.
    `distinct`: (column, seconds) for its number of distinct values. `last`: measures, for the time of the last earlier
    event that has it; None means any event.
    """

    key: tuple[str, ...]
    totals: tuple[tuple[str, str, int, float], ...] = ()
    distinct: tuple[tuple[str, int], ...] = ()
    last: tuple[str | None, ...] = ()

    @staticmethod
    def of(call: dict[str, Any]) -> Wanted:
        """Parse the lists of a macro's call."""
        return Wanted(
            tuple(call["key"]),
            tuple((total, measure, int(seconds), float(delay)) for total, measure, seconds, delay in call["totals"]),
            tuple((column, int(seconds)) for column, seconds in call["distinct"]),
            tuple(call["last"]),
        )

    @property
    def measured(self) -> set[str]:
        """The columns whose distinct values are counted."""
        return {column for column, _ in self.distinct}

    @property
    def measures(self) -> set[str]:
        """The measures of totals and of last events."""
        return {measure for _, measure, *_ in self.totals} | {measure for measure in self.last if measure is not None}

    @property
    def bounds(self) -> set[int]:
        """How far before an event its windows begin and end, in microseconds."""
        windows = [(_microseconds(delay + seconds), _microseconds(delay)) for _, _, seconds, delay in self.totals]
        windows += [(_microseconds(seconds), 0) for _, seconds in self.distinct]
        return {0} | {bound for window in windows for bound in window}


class EventIndex:
    """The index over `events`: a table in any order, with the columns needed, _at (microseconds) and is_evaluated.

    Results are available for the evaluated events; all events count. Neither of the two columns has nulls.
    """

    def __init__(self, events: pa.Table, entities: dict[str, Wanted]) -> None:
        at = _column(events, "_at")
        by_time = at.arg_sort().cast(_PLACE)
        at = at.gather(by_time)
        requested = _Asked(_column(events, "is_evaluated"), by_time)
        codes = {
            column: _codes(_column(events, column)).gather(by_time)
            for column in sorted({name for wanted in entities.values() for name in (*wanted.key, *wanted.measured)})
        }
        self.size = len(requested.numbers)
        """How many events are evaluated."""
        moments = at.gather(requested.numbers)
        bounds = {
            before: _first_not_before(at, moments - before)
            for before in sorted({before for wanted in entities.values() for before in wanted.bounds})
        }
        units = {
            name: _column(events, f"{UNITS}{name}").gather(by_time)
            for name in sorted({measure for wanted in entities.values() for measure in wanted.measures})
        }
        self._entities = {
            name: _EntityIndex(wanted, requested, at, codes, units, bounds) for name, wanted in entities.items()
        }

    def rows(self, first: int, count: int) -> pl.DataFrame:
        """The results for `count` of the evaluated events, starting at number `first` (from 0, in the given order).

        Columns: <entity>__<total>_<measure>_<seconds> (n bigint; s and q decimal(38, 0)),
        <entity>__distinct_<column>_<seconds> (bigint), <entity>__last and <entity>__last_<measure> (microseconds);
        null if the key has a null.
        """
        return pl.DataFrame(
            [
                values.alias(f"{name}__{column}")
                for name, entity in self._entities.items()
                for column, values in entity.rows(first, count)
            ]
        )


class _Asked:
    """The evaluated events. `numbers`: their ascending positions in order of time; `given`: the same as given."""

    def __init__(self, requested: pl.Series, by_time: pl.Series) -> None:
        self.all = bool(requested.all())
        self.given = _inverse(by_time).filter(requested)
        self._asked = requested.gather(by_time)
        self.numbers = self._asked.arg_true().cast(_PLACE)
        self._turns = _inverse(self.numbers, len(requested))

    def among(self, numbers: pl.Series) -> pl.Series:
        """Whether each of these events (numbers in any order) is evaluated."""
        return self._asked.gather(numbers)

    def turns(self, numbers: pl.Series) -> pl.Series:
        """The positions of the evaluated events in `numbers`."""
        return self._turns.gather(numbers)


class _EntityIndex:
    """Positions are numbers in the order of (key, time) of the events whose key is complete.

    Ranks are numbers in the same order among the evaluated ones.

    Args:
        at: the time of each event, in order of time. `codes` and `units` are in that order.
        bounds: for each evaluated event in order of time, the number of the first event at most that long before it.
    """

    def __init__(
        self,
        wanted: Wanted,
        requested: _Asked,
        at: pl.Series,
        codes: dict[str, pl.Series],
        units: dict[str, pl.Series],
        bounds: dict[int, pl.Series],
    ) -> None:
        self._wanted = wanted
        order = _Order(_of_asked(_combined([codes[column] for column in wanted.key]), requested), requested)
        self._seats = order.seats.gather(requested.given)
        self._bounds = {before: order.first_not_before(bounds[before]) for before in sorted(wanted.bounds)}
        self._running: dict[tuple[str, str], pl.Series | None] = {}
        for total, measure in {window[:2] for window in wanted.totals}:
            self._running[total, measure] = _running(total, units[measure].gather(order.events))
        at = at.gather(order.events)
        self._distinct = {
            column: _distinct(at, codes[column].gather(order.events), order, self._bounds, lengths)
            for column, lengths in _by_column(wanted.distinct).items()
        }
        self._last = {
            measure: at.gather(_last(order, self._bounds[0], units[measure] if measure is not None else None))
            for measure in wanted.last
        }

    def rows(self, first: int, count: int) -> list[tuple[str, pl.Series]]:
        seat = self._seats.slice(first, count)
        bounds = {before: places.gather(seat) for before, places in self._bounds.items()}
        reported: list[tuple[str, pl.Series]] = []
        known: dict[tuple[str, str, int], pl.Series] = {}

        def until(total: str, measure: str, before: int) -> pl.Series:
            running = self._running[total, measure]
            if running is None:
                return bounds[before]
            if (total, measure, before) not in known:
                known[total, measure, before] = running.gather(bounds[before])
            return known[total, measure, before]

        for total, measure, seconds, delay in self._wanted.totals:
            begin, end = _microseconds(delay + seconds), _microseconds(delay)
            values = until(total, measure, end) - until(total, measure, begin)
            kind: pl.DataType = pl.Int64() if total == "n" else pl.Decimal(38, 0)
            reported.append((f"{total}_{measure}_{seconds}", values.cast(kind)))
        for column, seconds in self._wanted.distinct:
            reported.append(
                (f"distinct_{column}_{seconds}", self._distinct[column][seconds].gather(seat).cast(pl.Int64))
            )
        for counted, last in self._last.items():
            reported.append(("last" if counted is None else f"last_{counted}", last.gather(seat)))
        return reported


class _Order:
    """Events by (key, time): `events` (the event at each position), `seats` (the rank of each event)."""

    def __init__(self, key: pl.Series, requested: _Asked) -> None:
        size = len(key)
        number = pl.int_range(size, eager=True)
        self._by_key = (key * size + number).drop_nulls().sort()
        self.events = (self._by_key % max(size, 1)).cast(_PLACE)
        self._key_begins = self._by_key - self.events.cast(pl.Int64)
        seated, self._begins_of_asked = self.events, self._key_begins
        if not requested.all:
            is_asked = requested.among(self.events)
            seated, self._begins_of_asked = self.events.filter(is_asked), self._key_begins.filter(is_asked)
        self._turns = requested.turns(seated)
        self.seats = _inverse(seated, size)

    def first_not_before(self, numbers: pl.Series) -> pl.Series:
        """By rank: the first position of the same key whose event is not before the one in `numbers`.

        Args:
            numbers: of each evaluated event in order of time.
        """
        return _first_not_before(self._by_key, self._begins_of_asked + numbers.gather(self._turns).cast(pl.Int64))

    @property
    def begin_of_key(self) -> pl.Series:
        """By position: the first position of the same key."""
        return _first_not_before(self._by_key, self._key_begins)

    @property
    def begin_of_asked_key(self) -> pl.Series:
        """By rank: the first position of the same key."""
        return _first_not_before(self._by_key, self._begins_of_asked)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _column(events: pa.Table, name: str) -> pl.Series:
    return pl.Series(name, pl.from_arrow(events.column(name)))


def _inverse(numbers: pl.Series, size: int | None = None) -> pl.Series:
    """The index of each number in `numbers`, which are distinct and less than `size`; null: absent."""
    nowhere = pl.Series("place", [None], _PLACE).new_from_index(0, len(numbers) if size is None else size)
    return nowhere.scatter(numbers, pl.int_range(len(numbers), dtype=_PLACE, eager=True))


def _first_not_before(ascending: pl.Series, values: pl.Series) -> pl.Series:
    return ascending.search_sorted(values, side="left").cast(_PLACE)


def _codes(values: pl.Series) -> pl.Series:
    """A number for each value, equal for equal values; null for null."""
    encoded = values.to_frame().unique().drop_nulls().with_row_index("code")
    return values.to_frame().join(encoded, on=values.name, how="left", maintain_order="left")["code"].cast(pl.Int64)


def _combined(codes: Sequence[pl.Series]) -> pl.Series:
    """Combine several numbers into one, small enough to be multiplied by the number of events. Null if one is null."""
    combined, most = codes[0], _size(codes[0])
    for code in codes[1:]:
        combined, most = combined * _size(code) + code, most * _size(code)
        if most * max(len(code), 1) > _MOST:
            combined = combined.rank("dense").cast(pl.Int64)
            most = _size(combined)
    return combined


def _whole(value: Any) -> int:
    """The integer maximum of a series; 0 if it is empty."""
    return 0 if value is None else int(value)


def _size(codes: pl.Series) -> int:
    return _whole(codes.max()) + 1


def _of_asked(key: pl.Series, requested: _Asked) -> pl.Series:
    """The same keys, but null for those without an evaluated event: no result needs them."""
    if requested.all:
        return key
    return key.set(~key.is_in(key.gather(requested.numbers).unique().implode()), None)


def _by_column(distinct: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for column, seconds in distinct:
        found.setdefault(column, []).append(seconds)
    return found


def _running(total: str, units: pl.Series) -> pl.Series | None:
    """The running total before each position, and after the last; None: the position itself is the count."""
    if total == "n":
        return None if units.null_count() == 0 else _before(units.is_not_null().cast(_PLACE))
    largest = max(abs(_whole(units.min())), abs(_whole(units.max())))
    fits = total == "s" and largest * len(units) < _MOST
    wide = pl.col("units").fill_null(0).cast(pl.Int64 if fits else pl.Int128)
    return _before(units.alias("units").to_frame().select(wide if total == "s" else wide * wide).to_series())


def _before(values: pl.Series) -> pl.Series:
    """Sums of the values before each position, and of all."""
    nothing = pl.Series("nothing", [0], values.dtype)
    return nothing.append(values.cum_sum().cast(values.dtype).alias("nothing"))


def _last(order: _Order, end: pl.Series, units: pl.Series | None) -> pl.Series:
    """By rank: the last position of the same key before `end` whose event has units; null if there is none."""
    frame = pl.DataFrame({"end": end, "begin": order.begin_of_asked_key})
    before = frame.select(pl.when(pl.col("end") > pl.col("begin")).then(pl.col("end") - 1)).to_series()
    if units is None:
        return before
    places = pl.int_range(len(order.events), dtype=_PLACE, eager=True)
    counted = places.set(units.gather(order.events).is_null(), None).forward_fill()
    frame = frame.with_columns(counted.gather(before).alias("last"))
    return frame.select(pl.when(pl.col("last") >= pl.col("begin")).then(pl.col("last"))).to_series()


def _distinct(
    at: pl.Series,
    codes: pl.Series,
    order: _Order,
    bounds: dict[int, pl.Series],
    lengths: Sequence[int],
) -> dict[int, pl.Series]:
    """Numbers of distinct values by window and position: events with a value, less those that repeat one of the window.

    An event repeats the one at position p for windows that begin at p or before. Such events began before the window's
    end; if p is before its start, they have ended.
    """
    places = len(codes)
    keys = _combined([order.begin_of_key.cast(pl.Int64), codes])
    by_value = (keys * places + pl.int_range(places, eager=True)).drop_nulls().sort()
    place = by_value % max(places, 1)
    repeats = pl.DataFrame({"place": place, "value": by_value - place}).select(
        pl.col("place").cast(_PLACE),
        pl.when(pl.col("value") == pl.col("value").shift()).then(pl.col("place").shift()).cast(_PLACE).alias("earlier"),
    )
    repeats = repeats.drop_nulls()
    gap = at.gather(repeats["place"]) - at.gather(repeats["earlier"])
    seen = _before(codes.is_not_null().cast(_PLACE))
    found = {}
    for seconds in lengths:
        start, end = bounds[_microseconds(seconds)], bounds[0]
        within = repeats.filter(gap < _microseconds(seconds))
        begun, ended = (_before(_marked(within[column], places)) for column in ("place", "earlier"))
        frame = pl.DataFrame(
            {
                "seen": seen.gather(end) - seen.gather(start),
                "begun": begun.gather(end),
                "ended": ended.gather(start),
            }
        )
        # in 64 bits: begun events of earlier keys have all ended, of this key some are before the window
        found[seconds] = frame.select(
            (pl.col("seen").cast(pl.Int64) - pl.col("begun").cast(pl.Int64) + pl.col("ended")).cast(_PLACE)
        ).to_series()
    return found


def _marked(numbers: pl.Series, size: int) -> pl.Series:
    return pl.zeros(size, dtype=_PLACE, eager=True).scatter(numbers, 1)
