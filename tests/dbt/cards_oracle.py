"""What the models over card records must say, by brute force over the bronze rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.dbt import windows_oracle as windows

Row = dict[str, Any]

SIX_HOURS = timedelta(hours=6)
TEN_MINUTES = timedelta(minutes=10)
LATENESS = timedelta(seconds=15)
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 event times have no zone
START = datetime(2024, 2, 29, 3)  # noqa: DTZ001
WINDOW_FEATURES = {"user_mean_trans_amt_last_360min": "mean", "user_trans_count_last_360min": "count"}
SESSION_FEATURES = {f"user_amt_{aggregate}_session": aggregate for aggregate in ("count", "sum", "mean", "max")}


def random_records(seed: int, count: int, partitions: int) -> list[Row]:
    """Records in order of arrival; times mostly advance, in steps that make ties and exact bounds common.

    A few are hours behind, a few are sent again, a few cannot be read.
    """
    rng = random.Random(seed)
    offsets = dict.fromkeys(range(partitions), 0)
    records: list[Row] = []
    for number in range(count):
        partition = rng.randrange(partitions)
        position = {"_topic": "transaction", "_partition": partition, "_offset": offsets[partition]}
        position["_timestamp"] = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
        offsets[partition] += rng.choice([1, 1, 1, 2])
        kind = rng.random()
        if kind < 0.03:
            records.append({**position, "_raw": b"{", "_error": "not JSON"})
        elif kind < 0.06 and records:
            again = rng.choice(records)
            records.append({**again, **position})
        else:
            behind = rng.choices([0, 300, 1200, 30000], [70, 15, 10, 5])[0]
            moment = START + timedelta(seconds=300 * (number // 4) + rng.choice([0, 0, 14, 15, 16]) - behind)
            records.append(
                {**position, "trans_num": f"{seed}-{number}", "trans_date_trans_time": moment.isoformat(" ")}
                | {"user_id": rng.choice([-5, 1, 2]), "amt": rng.choice([0.5, 12.34, 99.99, 100.0, 4000.0])}
            )
    return records


def distinct(bronze: list[Row]) -> list[Row]:
    """Readable rows by first arrival of each trans_num, with their time typed as `t`."""
    seen: dict[str, Row] = {}
    for row in sorted(bronze, key=lambda one: (one["_commit"], one["_partition"], one["_offset"])):
        if row["_error"] is None:
            seen.setdefault(row["trans_num"], {**row, "t": datetime.fromisoformat(row["trans_date_trans_time"])})
    return list(seen.values())


def over(rows: list[Row]) -> list[Row]:
    result = []
    for row in rows:
        amounts = [
            other["amt"]
            for other in rows
            if other["user_id"] == row["user_id"] and row["t"] - SIX_HOURS <= other["t"] <= row["t"]
        ]
        result.append(
            {"trans_num": row["trans_num"], "user_id": row["user_id"], "trans_date_trans_time": row["t"]}
            | {"user_mean_trans_amt_last_360min": sum(amounts) / len(amounts)}
            | {"user_trans_count_last_360min": len(amounts)}
        )
    return result


def window_start(moment: datetime) -> datetime:
    return EPOCH + (moment - EPOCH) // SIX_HOURS * SIX_HOURS


def late(rows: list[Row]) -> list[Row]:
    newest: dict[int, datetime] = {}
    result = []
    for row in sorted(rows, key=lambda one: (one["_partition"], one["_commit"], one["_offset"])):
        watermark = newest[row["_partition"]] - LATENESS if row["_partition"] in newest else None
        end = window_start(row["t"]) + SIX_HOURS
        if watermark is not None and end <= watermark:
            result.append({"trans_num": row["trans_num"], "watermark": watermark, "window_end": end})
        newest[row["_partition"]] = max(newest.get(row["_partition"], row["t"]), row["t"])
    return result


def newest_by_partition(rows: list[Row]) -> dict[int, datetime]:
    newest: dict[int, datetime] = {}
    for row in rows:
        newest[row["_partition"]] = max(newest.get(row["_partition"], row["t"]), row["t"])
    return newest


def watermark(rows: list[Row], idle: timedelta, observed: datetime | None) -> datetime:
    """That of the slowest partition which had a row within `idle` of the newest landing, or of time that has gone on.

    Args:
        observed: when the topic was seen last to have nothing more.
    """
    arrivals: dict[int, datetime] = {}
    for row in rows:
        arrivals[row["_partition"]] = max(arrivals.get(row["_partition"], row["_ingested_at"]), row["_ingested_at"])
    last = max(arrivals.values())
    newest = [at for partition, at in newest_by_partition(rows).items() if last - arrivals[partition] < idle]
    if observed is not None and observed - last >= idle:
        return max(newest) + (observed - last - idle) - LATENESS
    return min(newest) - LATENESS


def tumble(rows: list[Row], left_out: set[str], closed: datetime | None = None) -> list[Row]:
    return _closed(rows, left_out, closed, lambda events: windows.windowed(events, 21_600, 21_600), WINDOW_FEATURES)


def hop(rows: list[Row], left_out: set[str], closed: datetime | None = None) -> list[Row]:
    return _closed(rows, left_out, closed, lambda events: windows.windowed(events, 3_600, 21_600), WINDOW_FEATURES)


def cumulate(rows: list[Row], left_out: set[str], closed: datetime | None = None) -> list[Row]:
    return _closed(rows, left_out, closed, lambda events: windows.cumulated(events, 3_600, 21_600), WINDOW_FEATURES)


def sessions(rows: list[Row], left_out: set[str], closed: datetime | None = None) -> list[Row]:
    return _closed(rows, left_out, closed, lambda events: windows.sessions(events, 1_800), SESSION_FEATURES)


def _closed(
    rows: list[Row],
    left_out: set[str],
    closed: datetime | None,
    windows_of: Callable[[list[Row]], windows.Windows],
    features: dict[str, str],
) -> list[Row]:
    """The windows of the rows that count that end by `closed`; default: by what every partition has passed."""
    passed = min(newest_by_partition(rows).values()) - LATENESS if closed is None else closed
    counted = [row for row in rows if row["trans_num"] not in left_out]
    found = windows_of([{"k": row["user_id"], "t": row["t"], "x": row["amt"]} for row in counted])
    return [
        {"window_start": start, "window_end": end, "user_id": user}
        | {name: values[aggregate] for name, aggregate in features.items()}
        for (user, start, end), values in found.items()
        if end <= passed
    ]


def by_arrival(rows: list[Row]) -> list[Row]:
    """By commit; within one by offset, the partitions side by side in event time."""
    newest: dict[tuple[Any, int], datetime] = {}
    places = {}
    for row in sorted(rows, key=lambda one: one["_offset"]):
        landing = row["_commit"], row["_partition"]
        newest[landing] = max(newest.get(landing, row["t"]), row["t"])
        places[row["trans_num"]] = (row["_commit"], newest[landing], row["_partition"], row["_offset"])
    return sorted(rows, key=lambda one: places[one["trans_num"]])


def features(rows: list[Row]) -> list[Row]:
    """Counting only the row and what arrived before it."""
    result = []
    rows = by_arrival(rows)
    for number, row in enumerate(rows):
        known = [other for other in rows[: number + 1] if other["user_id"] == row["user_id"]]
        prior = [other["amt"] for other in known if other["t"] < row["t"]]
        near = [other["amt"] for other in known if row["t"] - TEN_MINUTES <= other["t"] <= row["t"]]
        result.append(
            {"transaction_id": row["trans_num"], "source": "kafka.transaction", "event_time": row["t"]}
            | {"prior_count": len(prior), "prior_mean": sum(prior) / len(prior) if prior else None}
            | {"count_10min": len(near), "sum_10min": sum(near)}
        )
    return result
