"""What windows and aggregates must say, by brute force over lists of events (k, t, x), one obvious loop each."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

Event = dict[str, Any]
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 event times have no zone
AGGREGATES = (
    "count sum mean stddev min max median mad percentile_90 distinct first last seconds_since_last is_first".split()
)


def aggregate(name: str, events: list[Event], at: datetime | None) -> Any:
    """One aggregate over the events of a window; `at` is the moment seconds_since_last is told at."""
    xs = sorted(event["x"] for event in events if event["x"] is not None)
    if name == "count":
        return len(xs)
    if name == "distinct":
        return len(set(xs))
    if name == "is_first":
        return not events
    if name == "seconds_since_last":
        return (at - max(event["t"] for event in events)).total_seconds() if events and at else None
    if not xs:
        return None
    if name == "stddev":
        return statistics.stdev(xs) if len(xs) > 1 else None
    if name == "median":
        return statistics.median(xs)
    if name == "mad":
        return statistics.median(abs(x - statistics.median(xs)) for x in xs)
    if name.startswith("percentile_"):
        place = (len(xs) - 1) * int(name[11:]) / 100
        low, high = xs[math.floor(place)], xs[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))
    if name in ("first", "last"):
        timed = sorted((event["t"], event["x"]) for event in events if event["x"] is not None)
        return timed[0 if name == "first" else -1][1]
    return {"sum": math.fsum(xs), "mean": math.fsum(xs) / len(xs), "min": xs[0], "max": xs[-1]}[name]


def ranged(events: list[Event], seconds: int | None, *, closed: bool) -> dict[int, dict[str, Any]]:
    """Aggregates of each event's window, by its id: [t - seconds, t] if closed, else [t - seconds, t)."""
    result = {}
    for event in events:
        if event["k"] is None or event["t"] is None:
            result[event["id"]] = dict.fromkeys(AGGREGATES)
            continue
        same = [other for other in events if other["k"] == event["k"] and other["t"] is not None]
        begin = event["t"] - timedelta(seconds=seconds) if seconds is not None else datetime.min  # noqa: DTZ901
        inside = [
            other
            for other in same
            if begin <= other["t"] and (other["t"] <= event["t"] if closed else other["t"] < event["t"])
        ]
        result[event["id"]] = {name: aggregate(name, inside, event["t"]) for name in AGGREGATES}
    return result


Windows = dict[tuple[Any, datetime, datetime], dict[str, Any]]


def windowed(events: list[Event], slide: int, seconds: int) -> Windows:
    """Windows of `seconds` that start every `slide` seconds, aligned to the epoch, that hold an event."""
    held = defaultdict(list)
    for event in events:
        if event["t"] is None:
            continue
        start = EPOCH + (event["t"] - EPOCH) // timedelta(seconds=slide) * timedelta(seconds=slide)
        while event["t"] < start + timedelta(seconds=seconds):
            held[event["k"], start, start + timedelta(seconds=seconds)].append(event)
            start -= timedelta(seconds=slide)
    return _aggregated(held)


def cumulated(events: list[Event], step: int, seconds: int) -> Windows:
    """Within each tumbling window of `seconds`, the windows that grow by `step` and hold an event."""
    held = defaultdict(list)
    for event in events:
        if event["t"] is None:
            continue
        start = EPOCH + (event["t"] - EPOCH) // timedelta(seconds=seconds) * timedelta(seconds=seconds)
        for size in range(step, seconds + 1, step):
            if event["t"] < start + timedelta(seconds=size):
                held[event["k"], start, start + timedelta(seconds=size)].append(event)
    return _aggregated(held)


def sessions(events: list[Event], gap: int) -> Windows:
    """Events of a key less than `gap` seconds apart."""
    held: dict[tuple[Any, datetime, datetime], list[Event]] = {}
    for key in {event["k"] for event in events}:
        own = sorted((one for one in events if one["k"] == key and one["t"] is not None), key=lambda one: one["t"])
        groups: list[list[Event]] = []
        for event in own:
            if groups and event["t"] - groups[-1][-1]["t"] < timedelta(seconds=gap):
                groups[-1].append(event)
            else:
                groups.append([event])
        for group in groups:
            held[key, group[0]["t"], group[-1]["t"] + timedelta(seconds=gap)] = group
    return _aggregated(held)


def spine(events: list[Event], slide: int, seconds: int) -> set[tuple[Any, datetime, datetime]]:
    """Every entity with every window from the first in which it has an event to the last."""
    held = windowed(events, slide, seconds)
    result = set()
    for key in {key for key, _, _ in held}:
        starts = [begin for owner, begin, _ in held if owner == key]
        start = min(starts)
        while start <= max(starts):
            result.add((key, start, start + timedelta(seconds=seconds)))
            start += timedelta(seconds=slide)
    return result


def _aggregated(held: dict[tuple[Any, datetime, datetime], list[Event]]) -> Windows:
    return {
        window: {name: aggregate(name, inside, window[2]) for name in AGGREGATES if name != "is_first"}
        for window, inside in held.items()
    }
