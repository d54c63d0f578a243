"""gold/transaction_feature_vectors equals brute force for any split into builds; a change versions what it touches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.features.catalogue import FILE
from fraud_lakehouse.ingest.bronze import BronzeTable
from tests.catalogues import loaded, shipped_content
from tests.dbt import bank_vectors_oracle as oracle
from tests.dbt.small_lake import CHANGE, Row, SmallLake, copied_project
from tests.dbt.vectors_oracle import is_same
from tests.dbt.windows_oracle import AGGREGATES

TABLE = "transaction_feature_vectors"
START = datetime(2026, 1, 1)  # noqa: DTZ001 transaction dates have no zone
FIELDS = ("user_id", "amount", "transaction_date")
DATES = st.one_of(
    st.none(),
    # minutes apart, so that ties and exact bounds are met; days apart, so that windows end; and a microsecond beside
    st.builds(
        lambda days, minutes, micros: START + timedelta(days=days, minutes=minutes, microseconds=micros),
        st.sampled_from([0, 0, 0, 1, 7, 30, 31, 60, 100]),
        st.sampled_from([0, 0, 10, 60, 360]),
        st.sampled_from([0, 0, 0, 1]),
    ),
)
PAYMENT = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from([1, 1, 1, 2, 2, None]),
        "amount": st.sampled_from([None, *(Decimal(cents) / 100 for cents in (1, 999, 1000, 1000, 50_000))]),
        "transaction_date": DATES,
    }
)
OPERATION = st.tuples(
    st.sampled_from("ccccuuuddt"), st.integers(0, 6), PAYMENT, st.sets(st.sampled_from(FIELDS), min_size=1)
)
Batches = list[list[tuple[str, int, Row, set[str]]]]
BATCHES = st.lists(st.lists(OPERATION, min_size=1, max_size=12), min_size=1, max_size=4)


ENTRY = {"stream": "bank_payments", "owner": "o", "entity": "user", "filter": "amount < 10"}
RECENCY = ("seconds_since_last", "is_first")
ADDED = [
    {**ENTRY, "name": "user_cheap_{aggregate}_30d", "measure": "amount", "window": "30 days"}
    | {"aggregate": [name for name in AGGREGATES if name not in RECENCY]},
    {**ENTRY, "name": "user_cheap_30d", "aggregate": "count", "window": "30 days"},
    {**ENTRY, "name": "user_cheap_{aggregate}", "aggregate": [*RECENCY]},
]


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    project = copied_project(tmp_path_factory.mktemp("bank_vectors"))
    content = shipped_content()
    content["features"] += ADDED
    (project / "pipeline" / FILE).write_text(yaml.safe_dump(content))
    lake = SmallLake(project.parent / "lake", project)
    yield lake
    lake.transformer.close()


def build(lake: SmallLake, *, full_refresh: bool = False) -> None:
    """The ledger, then the vectors."""
    lake.transformer.build(["transactions_ledger"], tests=False).raise_for_errors()
    lake.transformer.build([TABLE], full_refresh=full_refresh, tests=False).raise_for_errors()


class Bank:
    """The source's table, and the change events that bring it about."""

    def __init__(self) -> None:
        self.state: dict[int, Row] = {}
        self.lsn = 10

    def change(self, op: str, identity: int, payment: Row, fields: set[str]) -> Row | None:
        """Apply an operation; its event, or none where it does not apply."""
        self.lsn += 10
        event: Row = {"_lsn": self.lsn, "_seq": 1, "_committed_at": committed_at(self.lsn), "_op": op}
        if op == "t":
            self.state.clear()
            return event
        if (identity in self.state) == (op == "c"):
            return None
        if op == "d":
            del self.state[identity]
            return {**event, "transaction_id": identity}
        if op == "c":
            fields = set(FIELDS)
        row = {**self.state.get(identity, {}), **{name: payment[name] for name in fields}}
        self.state[identity] = {"transaction_id": identity, **row}
        return {**event, **self.state[identity]}


def committed_at(lsn: int) -> datetime:
    return datetime(2026, 6, 1, tzinfo=UTC) + timedelta(seconds=lsn)


def newest(rows: list[Row]) -> dict[int, Row]:
    """The newest version of each; versions must be 1, 2, 3 and so on."""
    found: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: row["version"]):
        assert row["version"] == found.get(row["transaction_id"], {"version": 0})["version"] + 1
        found[row["transaction_id"]] = row
    return found


def check(found: dict[int, Row], wanted: dict[int, Row]) -> None:
    assert {identity for identity, row in found.items() if not row["is_deleted"]} == wanted.keys()
    for identity, vector in wanted.items():
        assert (differs := is_same(found[identity], vector)) is None, (identity, differs)


@settings(max_examples=6, deadline=None)
@given(batches=BATCHES)
def test_any_split_gives_what_one_build_gives(shared_lake: SmallLake, batches: Batches) -> None:
    lake, bank, catalogue = shared_lake, Bank(), loaded(shared_lake.root.parent / "project" / "pipeline" / FILE)
    lake.clear()
    told: dict[int, Row] = {}
    versions: dict[int, int] = {}
    commits: dict[int, datetime] = {}
    for batch in batches:
        before = bank.lsn
        events = [event for operation in batch if (event := bank.change(*operation)) is not None]
        if not events:
            continue
        lake.land("transactions", events)
        build(lake)

        wanted = oracle.vectors(bank.state, catalogue)
        for identity in told.keys() | wanted.keys():
            old, new = told.get(identity), wanted.get(identity)
            if old is None or new is None or is_same(old, new) is not None:
                versions[identity] = versions.get(identity, 0) + 1
        found = newest(lake.rows("gold", TABLE))
        check(found, wanted)
        assert {identity: row["version"] for identity, row in found.items()} == versions
        for identity, row in found.items():
            if commits.get(identity) != row["known_at"]:
                assert committed_at(before) < row["known_at"] <= committed_at(bank.lsn)
            commits[identity] = row["known_at"]
        told = wanted

    if not lake.lake.exists("gold", TABLE):
        return
    incremental = newest(lake.rows("gold", TABLE))
    build(lake, full_refresh=True)
    rebuilt = newest(lake.rows("gold", TABLE))
    check(rebuilt, told)
    for identity, row in rebuilt.items():
        assert row["version"] == 1
        for name, value in row.items():
            if name not in ("version", "known_at", "_commit"):
                assert incremental[identity][name] == value, "to the last digit"


def commit(lake: SmallLake, *events: Row) -> dict[int, Row]:
    """Land events of one commit, build, and give the rows that the build has added, by id."""
    before = lake.rows("gold", TABLE) if lake.lake.exists("gold", TABLE) else []
    lake.land("transactions", [{**event, "_committed_at": committed_at(event["_lsn"])} for event in events])
    build(lake)
    known = {(row["transaction_id"], row["version"]) for row in before}
    added = [row for row in lake.rows("gold", TABLE) if (row["transaction_id"], row["version"]) not in known]
    return {row["transaction_id"]: row for row in added}


def payment(op: str, lsn: int, identity: int, user: int | None, days: float, amount: int = 10) -> Row:
    date = START + timedelta(days=days)
    return {
        "_op": op, "_lsn": lsn, "_seq": identity, "transaction_id": identity, "user_id": user,
        "amount": Decimal(amount), "transaction_date": date,
    }  # fmt: skip


def test_a_change_versions_what_it_touches_and_only_that(lake: SmallLake) -> None:
    first = commit(
        lake,
        *(payment("r", 10, number, 1, days) for number, days in enumerate([0, 5, 29, 30, 31, 80])),
        *(payment("r", 10, 10 + number, 2, days) for number, days in enumerate([0, 5, 70])),
        payment("r", 10, 20, 3, 6),
    )
    assert len(first) == 10
    assert {row["version"] for row in first.values()} == {1}
    assert {row["known_at"] for row in first.values()} == {committed_at(10)}

    moved = commit(lake, payment("u", 20, 1, 2, 5))
    assert set(moved) == {1, 2, 3, 4}, "itself, and what had it within 30 days; equal times of user 2 do not count it"
    assert all(row["version"] == 2 and row["known_at"] == committed_at(20) for row in moved.values())
    assert moved[1]["user_id"] == 2
    assert moved[1]["user_amount_count_30d"] == 1
    assert moved[3]["user_amount_count_30d"] == 2, "the 30 days reach back to day 0 exactly"

    dearer = commit(lake, payment("u", 30, 2, 1, 29, amount=99))
    assert set(dearer) == {2, 3, 4}, "its own ratio, and the windows it lies in: not day 80, which is beyond them"
    gone = commit(lake, {"_op": "d", "_lsn": 40, "_seq": 1, "transaction_id": 4})
    assert set(gone) == {4, 5}, "and the next one, however much later"
    assert gone[4]["is_deleted"] and gone[4]["version"] == 4
    assert gone[4]["user_id"] is None
    assert gone[5]["user_seconds_since_last"] == 50 * 86_400

    back_dated = commit(lake, payment("c", 50, 30, 2, -100))
    assert set(back_dated) == {30, 10}
    assert (back_dated[10]["user_is_first"], back_dated[10]["user_seconds_since_last"]) == (False, 100 * 86_400)
    again = commit(lake, payment("c", 60, 4, 1, 31))
    assert set(again) == {4, 5}
    assert (again[4]["version"], again[4]["is_deleted"]) == (5, False)
    assert commit(lake, payment("u", 70, 20, 3, 6, amount=11)) == {}, "nothing earlier to compare with"
    undated = commit(lake, {**payment("u", 80, 20, 3, 6), "transaction_date": None})
    assert set(undated) == {20}
    assert (undated[20]["event_time"], undated[20]["user_amount_count_30d"]) == (None, None)


def test_a_change_is_seen_until_the_next_row_that_a_filter_counts(lake: SmallLake) -> None:
    amounts = [1, 20, 20, 1, 20]
    commit(lake, *(payment("c", 10, n, 1, 32 * n, amount=amount) for n, amount in enumerate(amounts)))
    gone = commit(lake, {"_op": "d", "_lsn": 20, "_seq": 1, "transaction_id": 0})
    assert set(gone) == {0, 1, 2, 3}, "the last one has a cheap one before it still"
    assert [gone[number]["user_cheap_is_first"] for number in (1, 2, 3)] == [True, True, True]
    assert [gone[number]["user_is_first"] for number in (1, 2, 3)] == [True, False, False]

    dearer = commit(lake, payment("u", 30, 3, 1, 96, amount=20))
    assert set(dearer) == {4}
    assert dearer[4]["user_cheap_seconds_since_last"] is None
    again = commit(lake, payment("u", 40, 1, 1, 32, amount=2))
    assert set(again) == {2, 3, 4}
    assert again[4]["user_cheap_seconds_since_last"] == 96 * 86_400


def test_a_table_of_that_name_with_other_columns_leaves_the_vectors_empty(lake: SmallLake) -> None:
    schema = {"transaction_id": pl.String(), "user_id": pl.Int32(), **CHANGE}
    rows = [{"transaction_id": "a", "user_id": 1, "_op": "c", "_lsn": 1, "_seq": 1, "_committed_at": committed_at(1)}]
    frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
    BronzeTable.open_or_create(lake.lake, "transactions", schema, ["transaction_id"]).append(frame, {})
    lake.transformer.reload()
    try:
        build(lake)
        assert lake.rows("gold", TABLE) == []
    finally:
        lake.clear()
        lake.transformer.reload()


def test_sums_do_not_depend_on_the_size_of_what_is_left_out(lake: SmallLake) -> None:
    commit(lake, payment("c", 10, 1, 1, 0, amount=9_999_999), payment("c", 10, 2, 1, 40, amount=1))
    added = commit(lake, payment("c", 20, 3, 1, 41, amount=2), payment("c", 20, 4, 1, 42, amount=3))
    assert math.isclose(added[4]["user_amount_stddev_30d"], 0.5**0.5, rel_tol=1e-12)
