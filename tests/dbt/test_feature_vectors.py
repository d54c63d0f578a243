"""gold/card_feature_vectors equals brute force for any split into builds; a correction versions what it touches."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from fraud_lakehouse.features.catalogue import Catalogue
from tests.catalogues import shipped_catalogue
from tests.dbt import cards_oracle
from tests.dbt import vectors_oracle as oracle
from tests.dbt.small_lake import Row, SmallLake

TABLE = "card_feature_vectors"
LABEL_DELAY = 3 * 86_400


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return shipped_catalogue()


@pytest.fixture(scope="module", params=["drop", "correct"])
def shared_lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    root = tmp_path_factory.mktemp("vectors") / "lake"
    lake = SmallLake(root, late_rows=request.param, idle_seconds=1e6, label_delay=LABEL_DELAY)
    yield lake
    lake.transformer.close()


def build(lake: SmallLake, *, full_refresh: bool = False) -> None:
    """Silver, then the vectors."""
    lake.transformer.build(["card_transactions", "card_transactions_late"], tests=False).raise_for_errors()
    lake.transformer.build([TABLE], full_refresh=full_refresh, tests=False).raise_for_errors()


def that_count(lake: SmallLake) -> list[Row]:
    """Silver's rows, without the late ones when they are dropped."""
    late = {row["trans_num"] for row in lake.rows("silver", "card_transactions_late")}
    return [
        {**row, "t": row["trans_date_trans_time"]}
        for row in lake.rows("silver", "card_transactions")
        if lake.late_rows == "correct" or row["trans_num"] not in late
    ]


def newest(rows: list[Row]) -> dict[str, Row]:
    """The newest version of each; versions must be 1, 2, 3 and so on."""
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row["version"]):
        assert row["version"] == found.get(row["trans_num"], {"version": 0})["version"] + 1
        found[row["trans_num"]] = row
    return found


def check(found: dict[str, Row], wanted: dict[str, Row]) -> None:
    assert found.keys() == wanted.keys()
    for trans_num, vector in wanted.items():
        differs = oracle.is_same(found[trans_num], vector)
        assert differs is None, (trans_num, differs)


def rebuild(lake: SmallLake, catalogue: Catalogue) -> tuple[set[str], set[str]]:
    """Build all anew, which says what was told before; the payments told now, and before."""
    incremental = newest(lake.rows("gold", TABLE))
    build(lake, full_refresh=True)
    names = [feature.name for feature in catalogue.of_table(TABLE)]
    rebuilt = newest(lake.rows("gold", TABLE))
    for trans_num, row in rebuilt.items():
        assert [row[name] for name in names] == [incremental[trans_num][name] for name in names], "to the last digit"
    return set(rebuilt), set(incremental)


@pytest.mark.parametrize("seed", [3])
def test_any_split_gives_what_brute_force_gives(lake: SmallLake, catalogue: Catalogue, seed: int) -> None:
    rng = random.Random(seed)
    records = oracle.random_payments(seed, count=200, partitions=2)
    told: dict[str, Row] = {}
    versions: dict[str, int] = {}
    while records:
        size = rng.choice([30, 70])
        lake.land("card_transactions", records[:size])
        records = records[size:]
        build(lake)

        wanted = oracle.vectors(that_count(lake), catalogue, set(told), LABEL_DELAY)
        for trans_num, vector in wanted.items():
            if trans_num not in told or oracle.is_same(told[trans_num], vector) is not None:
                versions[trans_num] = versions.get(trans_num, 0) + 1
        told = wanted
        found = newest(lake.rows("gold", TABLE))
        check(found, wanted)
        assert {trans_num: row["version"] for trans_num, row in found.items()} == versions
    assert len(told) > 50
    assert max(versions.values()) > 1, "nothing was corrected"
    assert any(vector["merchant_frauds_7d"] for vector in told.values()), "no label was known"

    rebuilt, _ = rebuild(lake, catalogue)
    assert len(rebuilt) > 40  # fewer: the partition that came later has set the watermark back


def test_a_payment_read_before_it_was_told_late_is_taken_out_of_what_counted_it(
    lake: SmallLake, catalogue: Catalogue
) -> None:
    payments = oracle.random_payments(5, count=120, partitions=1)
    day = str(payments[60]["trans_date_trans_time"])
    late_one = payments[60] | {"trans_num": "behind", "_offset": 1_000_000, "amt": 1e6, "trans_date_trans_time": day}
    lake.land("card_transactions", payments)
    build(lake)
    lake.land("card_transactions", [late_one])
    for model in ("card_transactions", TABLE):  # as a lane beside may, between two commits of the hot one
        lake.transformer.build([model], tests=False).raise_for_errors()
    counted = [row["trans_num"] for row in lake.rows("gold", TABLE) if row["version"] == 2]
    assert counted, "no vector counted it"
    told = set(newest(lake.rows("gold", TABLE)))
    build(lake)
    found = newest(lake.rows("gold", TABLE))
    if lake.late_rows == "drop":
        assert {found[trans_num]["version"] for trans_num in counted} == {3}
        del found["behind"]  # what it had been told itself stays
    wanted = oracle.vectors(that_count(lake), catalogue, told - {"behind"}, LABEL_DELAY)
    check(found, wanted)


def test_order_within_the_lateness_changes_nothing(lake: SmallLake, catalogue: Catalogue) -> None:
    rng = random.Random(8)
    payments = [
        {**record, "_partition": 0}
        for record in cards_oracle.random_records(8, count=120, partitions=1)
        if record.get("trans_num") and record["trans_date_trans_time"][-2:] <= "15"
    ]
    payments = list({payment["trans_num"]: payment for payment in payments}.values())
    payments.sort(key=lambda row: row["trans_date_trans_time"])
    results = []
    for shuffled in (False, True):
        lake.clear()
        if shuffled:  # by less than the lateness
            payments.sort(key=lambda row: (row["trans_date_trans_time"][:-2], rng.random()))
        for offset, row in enumerate(payments):
            row["_offset"] = offset
        for rows in (payments[:50], payments[50:]):
            lake.land("card_transactions", rows)
            build(lake)
        stored = sorted(lake.rows("gold", TABLE), key=lambda row: row["trans_num"])
        results.append([{name: value for name, value in row.items() if name != "known_at"} for row in stored])

    assert results[0]
    assert {row["version"] for row in results[0]} == {1}
    assert results[0] == results[1]
