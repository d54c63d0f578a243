"""Whatever servers have, the proposal passes `pipeline check`, and entries that are there stay as they are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.discovery.facts import Cluster, Column, Database, Kind, Reference, Sample, Table
from fraud_lakehouse.discovery.folder import file_texts, write_folder
from fraud_lakehouse.discovery.json_fields import topic_of
from fraud_lakehouse.discovery.naming import is_bare
from fraud_lakehouse.discovery.postgres import with_references
from fraud_lakehouse.discovery.proposal import propose
from fraud_lakehouse.pipeline import KafkaSource, find_mistakes, load_pipeline
from tests.unit.discovered import KINDS

ODD = [
    "a__b",
    "b",
    "no",
    "x y",
    'q"uote',
    "c,omma",
    "d.ot",
    "é",
    "# not a comment",
    "a: b",
    "1st",
    "line\nbreak",
    "\x7f",
]
ALIKE = "users Users payment payments payment_history payments_ledger payments_payments transactions order null".split()
ROLES = "id user_id customer_id amount total price created_at time card is_fraud currency payment_date".split()
TAKEN = "User_Id Amount from source version transaction_id event_time".split()
NAMES = st.one_of(
    st.sampled_from([*ALIKE, *ODD]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
)
COLUMNS = st.sampled_from([*ROLES, *TAKEN]) | NAMES
PAYMENT: dict[str, Kind] = {"id": "number", "user_id": "number", "amount": "money", "created_at": "time"}
SAMPLES = st.builds(Sample, st.just(200), st.just(200), st.integers(1, 200), st.booleans())


@st.composite
def tables(draw: st.DrawFn, order: int) -> Table:
    core = draw(st.sampled_from([{}, PAYMENT]))
    others = draw(st.lists(COLUMNS, min_size=1, max_size=5, unique_by=str.lower))
    names = [*core, *(name for name in others if name.lower() not in core)]
    columns = tuple(
        Column(
            name,
            core.get(name) or draw(st.sampled_from(sorted(set(KINDS.values())))),
            draw(st.sampled_from(["numeric(10,2)", 'a."type" # with\nlines'])),
            draw(st.booleans()),
            draw(st.booleans()),
            draw(SAMPLES),
            draw(st.none() | st.builds(Reference, st.tuples(st.just("public"), NAMES), COLUMNS, st.booleans())),
            is_bare(name),
        )
        for name in names
    )
    key = tuple(names[: draw(st.sampled_from([1, 1, 1, 0, 2]))])
    problem = draw(st.sampled_from(["", "", "", "it is a\nview # -> ALTER ..."]))
    schema = draw(st.sampled_from(["public", "public", "a", "s p"]))
    return Table(schema, draw(NAMES), columns, key, draw(st.none() | st.integers(0, 10**9)), problem, order)


@st.composite
def databases(draw: st.DrawFn, variable: str) -> Database:
    found = [draw(tables(order)) for order in range(draw(st.integers(0, 6)))]
    found = list({one.identity: one for one in found}.values())
    problems = draw(st.sampled_from([(), ("wal_level is\nreplica -> ALTER SYSTEM",)]))
    return Database(variable, draw(NAMES), tuple(with_references(found)), problems)


KEYS = COLUMNS | st.sampled_from(["", "sender_details", "a.b", "0"])
VALUES = st.one_of(
    st.none(),
    st.integers(0, 10**18),
    st.floats(0, 1e6),
    st.booleans(),
    st.sampled_from(["x", "y", "2024-01-31T10:00:00Z", "2024-01-31", "1.50"]),
)
RECORDS = st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=4) | st.just([1]), max_size=8)
TRANSFERS = RECORDS.map(
    lambda more: [
        json.dumps({"user_id": number % 2, "amount": 1.5, "created_at": "2024-01-31", **more, "id": number}).encode()
        for number in range(4)
    ]
)
RAW = TRANSFERS | st.lists(
    RECORDS.map(lambda record: json.dumps(record).encode()) | st.sampled_from([None, b"x", b"\0\0\0\0\1abc"])
)
TOPICS = st.sampled_from(["transactions", "payment", "bank-transactions", "bank_transactions", "1.2", "null", "users"])


@st.composite
def clusters(draw: st.DrawFn, variable: str) -> Cluster:
    names = draw(st.lists(TOPICS, max_size=4, unique=True))
    file = draw(st.sampled_from(["", "WIRES_CONFIG_FILE"]))
    return Cluster(variable, file, tuple(topic_of(name, 1, draw(RAW)) for name in names))


def proposals() -> st.SearchStrategy[tuple[list[Database], list[Cluster]]]:
    return st.tuples(
        st.lists(st.sampled_from(["FRAUD_POSTGRES_DSN", "A_DSN", "B_DSN"]), max_size=2, unique=True).flatmap(
            lambda variables: st.tuples(*map(databases, variables)).map(list)
        ),
        st.lists(st.sampled_from(["FRAUD_KAFKA_BOOTSTRAP_SERVERS", "A_SERVERS"]), max_size=2, unique=True).flatmap(
            lambda variables: st.tuples(*map(clusters, variables)).map(list)
        ),
    )


def entries(folder: Path) -> dict[str, Any]:
    pipeline = load_pipeline(folder, {})
    return {**pipeline.sources, **{f"stream {name}": one for name, one in pipeline.streams.items()}}


@settings(deadline=None, max_examples=60)
@given(proposals(), proposals())
def test_any_proposal_passes_the_check_in_a_new_folder_and_behind_other_entries(
    first: tuple[list[Database], list[Cluster]], second: tuple[list[Database], list[Cluster]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder, file_texts(propose(*first), folder, {}))
        assert find_mistakes(folder, {}) == []
        before, present = entries(folder), load_pipeline(folder, {})
        more = propose(*second, tuple(present.sources.values()), tuple(present.streams.values()))
        write_folder(folder, file_texts(more, folder, {}))
        after = entries(folder)
        assert {name: after[name] for name in before} == before
        for source in after.values():
            if isinstance(source, KafkaSource):
                assert {field.name for topic in source.topics for field in topic.fields.values()}
