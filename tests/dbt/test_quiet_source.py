"""A topic that is quiet as a whole: observations of that close its windows and tell its vectors, without a record."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fraud_lakehouse.ingest import bronze
from tests.catalogues import shipped_catalogue
from tests.dbt import cards_oracle as oracle
from tests.dbt import vectors_oracle
from tests.dbt.small_lake import Row, SmallLake, assert_same
from tests.dbt.test_card_models import KEYS
from tests.dbt.test_card_models import WINDOWS as KINDS
from tests.dbt.test_feature_vectors import TABLE, check, newest, rebuild, that_count
from tests.dbt.test_feature_vectors import build as build_vectors
from tests.dbt.test_vectors_idle import payments
from tests.dbt.test_window_idle import Clock

IDLE = timedelta(seconds=60)
LABEL_DELAY = 600
WINDOWS = "user_trans_amt_last_360min_windowed"
MODELS = [
    "card_transactions",
    "card_transactions_late",
    *(f"{table}_versions" for table in KINDS),
    *KINDS,
    f"{WINDOWS}_spine",
]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Landing(Clock):
    """The clock of this file's landings."""


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    root = tmp_path_factory.mktemp("quiet") / "lake"
    seconds = IDLE.total_seconds()
    lake = SmallLake(
        root, window_idle_seconds=seconds, idle_seconds=seconds, window_spine=True, label_delay=LABEL_DELAY
    )
    yield lake
    lake.transformer.close()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bronze, "datetime", Landing)
    monkeypatch.setattr(Landing, "at", NOON)


def build(lake: SmallLake, *, full_refresh: bool = False) -> None:
    """Silver, the windows and what is made of them."""
    lake.transformer.build(MODELS, full_refresh=full_refresh, tests=False).raise_for_errors()


def windows(lake: SmallLake, observed: datetime | None, kind: str = WINDOWS) -> list[Row]:
    """The closed windows of a table, by brute force."""
    rows = oracle.distinct(lake.rows("bronze", "card_transactions"))
    late = {row["trans_num"] for row in oracle.late(rows)}
    return KINDS[kind](rows, late, oracle.watermark(rows, IDLE, observed))


def check_windows(lake: SmallLake, observed: datetime | None) -> None:
    for table in KINDS:
        assert_same(lake.rows("gold", table), windows(lake, observed, table), *KEYS[table])


@pytest.mark.parametrize("seed", range(2))
def test_windows_close_by_time_and_any_split_gives_what_one_build_gives(lake: SmallLake, seed: int) -> None:
    rng = random.Random(seed)
    partitions = 1 + seed % 2
    records = oracle.random_records(seed + 30, count=320, partitions=partitions)
    observed: datetime | None = None
    closed_by_time = 0
    while records or rng.random() < 0.9:
        Landing.at += timedelta(seconds=rng.choice([20, 45, 61, 600, 7200, 20000]))
        if records and rng.random() < 0.5:
            lake.land("card_transactions", records[:20])
            records = records[20:]
        elif lake.lake.exists("bronze", "card_transactions"):
            observed = Landing.at
            lake.observe(observed, partitions)
        else:
            continue
        if rng.random() < 0.8:  # else the next build reads more than one of them
            build(lake)
            check_windows(lake, observed)
            closed_by_time += len(windows(lake, observed)) - len(windows(lake, None))
    build(lake)
    assert closed_by_time > 0
    check_windows(lake, observed)
    build(lake, full_refresh=True)
    check_windows(lake, observed)


def payment(partition: int, number: int, minutes: float) -> Row:
    (found,) = payments(partition, number, minutes)
    return found


def versions(lake: SmallLake) -> list[tuple[int, int, int, bool]]:
    """Of each version of a window, in the order they were told: hour of its start, count, number, whether withdrawn."""
    rows = sorted(lake.rows("gold", f"{WINDOWS}_versions"), key=lambda row: (row["known_at"], row["window_start"]))
    return [
        (row["window_start"].hour, row["user_trans_count_last_360min"], row["version"], row["is_deleted"])
        for row in rows
    ]


def test_the_last_window_closes_once_the_clock_has_passed_its_end(lake: SmallLake) -> None:
    """The only payments are at 06:00 and 11:59:30; with idle and lateness the window's end is passed 105 s later."""
    lake.land("card_transactions", [payment(0, 0, 0), payment(0, 1, 359.5)])
    for seconds, closed in ((60, []), (104.999999, []), (105, [(6, 2, 1, False)]), (90_000, [(6, 2, 1, False)])):
        lake.observe(NOON + timedelta(seconds=seconds))
        build(lake)
        assert versions(lake) == closed, seconds
    spine = lake.rows("gold", f"{WINDOWS}_spine")
    assert max(row["window_end"] for row in spine) == datetime(2024, 3, 1, 12), "the user's own last window"  # noqa: DTZ001


def test_what_lands_behind_time_that_was_observed_corrects_the_window(lake: SmallLake) -> None:
    lake.land("card_transactions", [payment(0, 0, 0), payment(0, 1, 350)])
    lake.observe(NOON + timedelta(hours=1))
    build(lake)
    Landing.at += timedelta(hours=2)
    lake.land("card_transactions", [payment(0, 2, 355)])
    build(lake)
    assert lake.rows("silver", "card_transactions_late") == [], "only time had closed its window"
    lake.observe(NOON + timedelta(hours=3))
    build(lake)
    assert versions(lake) == [(6, 2, 1, False), (6, 2, 2, True), (6, 3, 3, False)], "withdrawn, and closed again"
    Landing.at += timedelta(hours=2)
    lake.land("card_transactions", [payment(0, 3, 358), payment(0, 4, 361)])
    build(lake)
    assert versions(lake)[3:] == [(6, 4, 4, False)], "corrected at once: the payment after it keeps it closed"


def test_an_observation_before_the_newest_landing_says_nothing(lake: SmallLake) -> None:
    lake.land("card_transactions", [payment(0, 0, 0), payment(0, 1, 350)])
    lake.observe(NOON + timedelta(hours=10))
    Landing.at += timedelta(hours=11)
    lake.land("card_transactions", [payment(0, 2, 351)])
    build(lake)
    assert versions(lake) == []


def test_the_spine_is_written_again_only_where_something_is_new(lake: SmallLake) -> None:
    lake.land("card_transactions", [payment(0, 0, 0), payment(0, 1, 361)])
    versions_of = []
    for observed in (None, None, NOON + timedelta(hours=10), None):  # at first there is no table of observations
        if observed is not None:
            lake.observe(observed)
        build(lake)
        versions_of.append(lake.lake.open("gold", f"{WINDOWS}_spine").version())
    first, again, later, at_last = versions_of
    assert first == again < later == at_last


def test_a_quiet_topic_waits_for_no_partition(lake: SmallLake) -> None:
    """Partition 1 landed with the others and is a day behind: where nothing lands, nobody waits for it."""
    lake.land("card_transactions", [payment(0, 0, 0), payment(0, 1, 359), payment(1, 0, -1440)])
    lake.observe(NOON + timedelta(minutes=2))
    build(lake)
    assert [version[:2] for version in versions(lake)] == [(6, 1)], "of partition 1; the other's has 15 s to go"
    lake.observe(NOON + timedelta(minutes=2, seconds=15))
    build(lake)
    assert [version[:2] for version in versions(lake)] == [(6, 1), (6, 2)]


def test_the_last_vectors_are_told_by_time_and_corrected_by_what_comes(lake: SmallLake) -> None:
    catalogue = shipped_catalogue()
    told: dict[str, Row] = {}
    observed: datetime | None = None

    def step(seconds: float, *records: Row) -> set[str]:
        """Land, or observe that there is nothing, and build; compare with brute force; which vectors changed."""
        nonlocal observed
        Landing.at += timedelta(seconds=seconds)
        if records:
            lake.land("card_transactions", list(records))
        else:
            observed = Landing.at
            lake.observe(observed, 2)
        build_vectors(lake)
        wanted = vectors_oracle.vectors(that_count(lake), catalogue, set(told), LABEL_DELAY, IDLE, observed)
        found = newest(lake.rows("gold", TABLE))
        check(found, wanted)
        changed = {
            trans_num
            for trans_num, vector in wanted.items()
            if trans_num not in told or vectors_oracle.is_same(told[trans_num], vector) is not None
        }
        told.update(wanted)
        return changed

    assert step(0, *payments(0, 0, 0, 10, 20), *payments(1, 0, 1, 5)) == {"0-0", "1-1"}
    assert step(59) == set()
    assert step(1) == {"1-5", "0-10"}, "all are quiet: nobody waits for partition 1, and 15 s are left"
    assert step(15) == set(), "what is told lies strictly before"
    assert step(0.001) == {"0-20"}
    assert step(3600) == set()
    assert step(1, *payments(0, 3, 15, 30)) == {"0-15", "0-20"}, "told stays told, and is corrected"
    assert step(60, *payments(1, 2, 31)) == {"0-30"}, "partition 0 is idle"
    assert step(76) == {"1-31"}
    rebuilt, told_before = rebuild(lake, catalogue)
    assert rebuilt == told_before
