from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.checks.slot_health import Level, assess
from fraud_lakehouse.sources.postgres.retention import Retention

MIB = 2**20
WELL = Retention(True, 0, "reserved")


@pytest.mark.parametrize(
    "facts, level, words",
    [
        ({"retained_bytes": 49 * MIB}, Level.OK, ""),
        ({"retained_bytes": 50 * MIB}, Level.WARNING, "50.0 MiB of log are retained for the slot, of 100.0 MiB"),
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
    ],
)
def test_levels(facts: dict[str, object], level: Level, words: str) -> None:
    health = assess(replace(WELL, **facts), 100 * MIB, 0x16B3748)  # type: ignore[arg-type]
    assert health.level is level
    assert words in " ".join(health.reasons)
    assert bool(health.reasons) == (level is not Level.OK)


def test_a_missing_slot_is_a_loss_where_capture_would_read_on_from_it() -> None:
    missing = Retention(False)
    before_the_first_snapshot = assess(missing, 100 * MIB, None)
    assert (before_the_first_snapshot.level, before_the_first_snapshot.lost) == (Level.OK, False)
    dropped = assess(missing, 100 * MIB, 0x1_016B3748)
    assert (dropped.level, dropped.lost) == (Level.ERROR, True)
    (reason,) = dropped.reasons
    assert "1/16B3748" in reason and "fraud-lakehouse resync" in reason
    invalidated = assess(replace(WELL, wal_status="lost", retained_bytes=None), 100 * MIB, 0x1_016B3748)
    assert (invalidated.level, invalidated.lost) == (dropped.level, True), "dropping it does not make it well"


@given(
    first=st.integers(0, 10**9),
    more=st.integers(0, 10**9),
    limit=st.one_of(st.none(), st.integers(0, 10**9)),
    status=st.sampled_from(["reserved", "extended", "unreserved"]),
)
def test_more_log_is_never_better(first: int, more: int, limit: int | None, status: str) -> None:
    little = Retention(True, first, status, None if limit is None else limit - first, limit)
    much = replace(little, retained_bytes=first + more, safe_bytes=None if limit is None else limit - first - more)
    assert assess(much, 10**8, None).level.rank >= assess(little, 10**8, None).level.rank
