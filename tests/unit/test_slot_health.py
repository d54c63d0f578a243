from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.capture.postgres_retention import Retention
from fraud_lakehouse.detect.slot_health import Level, assess

MIB = 2**20
WELL = Retention(True, 0, "reserved")


@pytest.mark.parametrize(
    "facts, level, words",
    [
        ({"retained_bytes": 49 * MIB}, Level.OK, ""),
        ({"retained_bytes": 50 * MIB}, Level.WARNING, "50.0 MiB of log are kept for the slot, of 100.0 MiB"),
        ({"retained_bytes": 80 * MIB}, Level.ERROR, "forget-slot"),
        ({"retained_bytes": 40 * MIB, "limit_bytes": 50 * MIB}, Level.ERROR, "of 50.0 MiB"),
        ({"retained_bytes": 40 * MIB, "limit_bytes": 1000 * MIB, "safe_bytes": 900 * MIB}, Level.OK, ""),
        ({"retained_bytes": 40 * MIB, "limit_bytes": 1000 * MIB, "safe_bytes": 100 * MIB}, Level.ERROR, "90%"),
        ({"wal_status": "extended"}, Level.WARNING, "extended"),
        ({"wal_status": "extended", "limit_bytes": 1000 * MIB, "safe_bytes": 900 * MIB}, Level.ERROR, "extended"),
        ({"wal_status": "unreserved"}, Level.ERROR, "next checkpoint"),
        ({"wal_status": "lost", "retained_bytes": None}, Level.ERROR, "fraud-lakehouse resync"),
        ({"invalidation_reason": "idle_timeout"}, Level.ERROR, "idle_timeout"),
        ({"inactive_seconds": 1e6}, Level.OK, ""),
        ({"inactive_seconds": 50.0, "idle_limit_seconds": 100.0}, Level.WARNING, "50 s"),
        ({"inactive_seconds": 81.0, "idle_limit_seconds": 100.0}, Level.ERROR, "after 100 s"),
        ({"exists": False, "retained_bytes": None, "wal_status": None}, Level.OK, ""),
    ],
)
def test_levels(facts: dict[str, object], level: Level, words: str) -> None:
    health = assess(replace(WELL, **facts), 100 * MIB)  # type: ignore[arg-type]
    assert health.level is level
    assert words in " ".join(health.reasons)
    assert bool(health.reasons) == (level is not Level.OK)


@given(
    first=st.integers(0, 10**9),
    more=st.integers(0, 10**9),
    limit=st.one_of(st.none(), st.integers(0, 10**9)),
    status=st.sampled_from(["reserved", "extended", "unreserved"]),
)
def test_more_log_is_never_better(first: int, more: int, limit: int | None, status: str) -> None:
    little = Retention(True, first, status, None if limit is None else limit - first, limit)
    much = replace(little, retained_bytes=first + more, safe_bytes=None if limit is None else limit - first - more)
    assert assess(much, 10**8).level.rank >= assess(little, 10**8).level.rank
