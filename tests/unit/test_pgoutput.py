from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.errors import TableWithoutPositionError
from fraud_lakehouse.sources.postgres.pgoutput.decode import Decoded, decode
from fraud_lakehouse.sources.postgres.types import ColumnType
from tests.unit.pgoutput_messages import UNCHANGED, Table, transaction, truncate

INT4, INT8, TEXT, NUMERIC, DATE, TIMESTAMP, TIMESTAMPTZ, BOOL = 23, 20, 25, 1700, 1082, 1114, 1184, 16
BYTEA, FLOAT4, FLOAT8 = 17, 700, 701
NUMERIC_10_2 = ((10 << 16) | 2) + 4
PAYMENTS = Table(1001, "payments", (("id", INT8, -1), ("note", TEXT, -1), ("amount", NUMERIC, NUMERIC_10_2)), ("id",))


def decoded(*messages: list[bytes], after: dict[str, int] | None = None, position: int = 0) -> Decoded:
    flat = [message for part in messages for message in part]
    return decode(flat, {}, {"payments": 0, "wide": 0} if after is None else after, position)


def events(frame: pl.DataFrame, *columns: str) -> list[tuple[object, ...]]:
    return frame.select(columns).rows()


def test_operations_keep_order_position_and_commit_time() -> None:
    result = decoded(
        transaction(100, PAYMENTS.relation(), PAYMENTS.insert("1", "a", "1.50"), PAYMENTS.insert("2", None, None)),
        transaction(
            200, PAYMENTS.update("1", "b", "2.00"), PAYMENTS.delete("2", None, None), committed_us=1_700_000_000_123_456
        ),
    )
    frame = result.frames["payments"]
    assert events(frame, "_op", "id", "note", "amount", "_lsn") == [
        ("c", 1, "a", Decimal("1.50"), 100),
        ("c", 2, None, None, 100),
        ("u", 1, "b", Decimal("2.00"), 200),
        ("d", 2, None, None, 200),
    ]
    assert frame["_seq"].to_list() == [3, 5, 3, 5]
    assert frame["_committed_at"][-1] == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert result.end_lsn == 200
    assert result.newest_committed_at_us == 1_700_000_000_123_456
    assert dict(frame.schema) == result.tables["payments"].frame_schema


def test_nothing_but_empty_transactions() -> None:
    result = decoded(transaction(100), transaction(120))
    assert result.frames == {}
    assert result.end_lsn == 120
    assert decode([], {}, {}, 0).end_lsn == 0


def test_a_changed_key_is_a_delete_and_an_update_with_consecutive_numbers() -> None:
    moved = PAYMENTS.update("9", "a", "1", old=("1", None, None))
    frame = decoded(transaction(100, PAYMENTS.relation(), PAYMENTS.insert("1", "a", "1"), moved)).frames["payments"]
    assert events(frame, "_op", "id", "note", "_seq") == [("c", 1, "a", 3), ("d", 1, None, 4), ("u", 9, "a", 5)]


def test_unchanged_toast_is_named_and_null() -> None:
    frame = decoded(
        transaction(100, PAYMENTS.relation(), PAYMENTS.update("1", UNCHANGED, "1"), PAYMENTS.update("2", "x", "1"))
    ).frames["payments"]
    assert events(frame, "note", "_unchanged") == [(None, '["note"]'), ("x", None)]


def test_identity_full_fills_toast_and_splits_only_changed_keys() -> None:
    full = Table(1001, "payments", PAYMENTS.columns, (), identity="f")
    known = {"payments": TableInfo("payments", "public", "payments", (), ("id",), 1001, full=True)}
    messages = transaction(
        100,
        full.relation(),
        full.update("1", UNCHANGED, "2", old=("1", "long", "1")),
        full.update("3", "b", "2", old=("2", "b", "2")),
        full.delete("3", "b", "2"),
    )
    frame = decode(messages, known, {"payments": 0}, 0).frames["payments"]
    assert events(frame, "_op", "id", "note", "_unchanged") == [
        ("u", 1, "long", None),
        ("d", 2, None, None),
        ("u", 3, "b", None),
        ("d", 3, "b", None),
    ]


def test_truncate_names_several_tables() -> None:
    other = Table(1002, "wide", (("k", INT4, -1),), ("k",))
    result = decoded(
        transaction(100, PAYMENTS.relation(), other.relation(), other.insert("7"), truncate(PAYMENTS, other))
    )
    assert events(result.frames["payments"], "_op", "id", "_lsn", "_seq") == [("t", None, 100, 5)]
    assert events(result.frames["wide"], "_op", "k", "_seq") == [("c", 7, 3), ("t", None, 5)]


def test_transactions_the_table_or_the_lake_has_are_left_out() -> None:
    log = [
        transaction(100, PAYMENTS.relation(), PAYMENTS.insert("1", "a", "1")),
        transaction(200, PAYMENTS.insert("2", "a", "1")),
        transaction(300, PAYMENTS.insert("3", "a", "1")),
    ]
    assert decoded(*log, after={"payments": 200}).frames["payments"]["id"].to_list() == [3]
    assert decoded(*log, after={"payments": 0}, position=100).frames["payments"]["id"].to_list() == [2, 3]
    assert decoded(*log, after={"payments": 300}).frames == {}


def test_a_captured_table_without_a_position_fails_closed_and_a_foreign_one_is_left_out() -> None:
    log = transaction(100, PAYMENTS.relation(), PAYMENTS.insert("1", "a", "1"))
    known = {"payments": TableInfo("payments", "public", "payments", (), ("id",))}
    with pytest.raises(TableWithoutPositionError, match=r"public\.payments"):
        decode(log, known, {}, 0)
    assert decode(log, {}, {}, 0).frames == {}


def test_a_table_is_told_by_its_oid_and_source_not_by_its_name_in_the_lake() -> None:
    anew = Table(1002, "payments", PAYMENTS.columns, ())
    log = [
        *transaction(100, PAYMENTS.relation(), PAYMENTS.insert("1", "a", "1")),
        *transaction(200, anew.relation(), anew.insert("2", "a", "1")),
    ]
    assert decode(log, {}, {"payments": 0}, 0, left_out={1002}).frames["payments"]["id"].to_list() == [1]
    other = Table(1003, "b", PAYMENTS.columns, ("id",), schema="a")  # would be a__b, which is another's name
    known = {"a__b": TableInfo("a__b", "public", "a__b", (), ("id",))}
    log = transaction(100, other.relation(), other.insert("1", "a", "1"))
    assert decode(log, known, {"a__b": 0}, 0).frames == {}
    assert decode(log, {}, {"a__b": 0}, 0).frames["a__b"]["id"].to_list() == [1]


def test_columns_added_and_dropped_within_a_batch() -> None:
    later = Table(1001, "payments", (("id", INT8, -1), ("amount", NUMERIC, NUMERIC_10_2), ("kind", TEXT, -1)), ("id",))
    result = decoded(
        transaction(100, PAYMENTS.relation(), PAYMENTS.insert("1", "a", "1")),
        transaction(200, later.relation(), later.insert("2", "5", "new"), truncate(later)),
    )
    assert events(result.frames["payments"], "_op", "id", "amount", "kind", "note") == [
        ("c", 1, Decimal(1), None, "a"),
        ("c", 2, Decimal(5), "new", None),
        ("t", None, None, None, None),
    ]
    described = result.tables["payments"]
    assert [column.name for column in described.columns] == ["id", "amount", "kind"]
    assert [column.name for column in described.dropped] == ["note"]
    assert described.lsn == 200


def retyping(kind: int, values: list[str | None], other: int, *more: str) -> pl.DataFrame:
    """Rows before and after column v of a table changed its type, in one run."""
    before = Table(1002, "wide", (("k", INT4, -1), ("v", kind, -1)), ("k",))
    after = Table(1002, "wide", (("k", INT4, -1), ("v", other, -1)), ("k",))
    rows = [before.insert(str(number), value) for number, value in enumerate(values)]
    later = [after.insert(str(100 + number), value) for number, value in enumerate(more)]
    return decoded(transaction(100, before.relation(), *rows, after.relation(), *later)).frames["wide"]


@pytest.mark.parametrize(
    ("kind", "text", "other", "typed", "kept"),
    [
        (INT4, "7", INT8, 7, None),
        (INT8, str(2**40), INT4, None, str(2**40)),
        (INT4, "7", TEXT, "7", None),
        (TEXT, "2024-02-29", DATE, date(2024, 2, 29), None),
        (TEXT, "soon", DATE, None, "soon"),
        (TEXT, "7", INT4, 7, None),
        (TEXT, "07", INT4, 7, "07"),
        (TEXT, "yes", BOOL, True, "yes"),
        (BOOL, "t", TEXT, "true", None),
        (BOOL, "t", INT4, 1, None),
        (INT4, "2", BOOL, True, "2"),
        (BYTEA, "\\x00ff", TEXT, "\\x00ff", None),
        (BYTEA, "\\x00ff", INT4, None, "\\x00ff"),
        (NUMERIC, "1.25", INT4, 1, "1.250000000"),
        (FLOAT8, "0.1", FLOAT4, pytest.approx(0.1), "0.1"),
        (TIMESTAMP, "2024-02-29 12:30:00", DATE, date(2024, 2, 29), "2024-02-29 12:30:00"),
        (TIMESTAMP, "2024-02-29 12:30:00.5", TEXT, "2024-02-29 12:30:00.5", None),
        (TIMESTAMP, "2024-02-29 12:30:00", TIMESTAMPTZ, datetime(2024, 2, 29, 12, 30, tzinfo=UTC), None),
        (TIMESTAMPTZ, "2024-02-29 12:30:00+00", TEXT, "2024-02-29 12:30:00+00", None),
        (DATE, "2024-02-29", TIMESTAMP, datetime(2024, 2, 29), None),  # noqa: DTZ001 - without zone
        (DATE, "2024-02-29", BOOL, None, "2024-02-29"),
    ],
)
def test_rows_before_a_type_changed_lose_nothing(kind: int, text: str, other: int, typed: object, kept: object) -> None:
    frame = retyping(kind, [text, None], other)
    assert frame["v"].to_list() == [typed, None]
    assert frame["_text"].to_list() == [None if kept is None else json.dumps({"v": kept}), None]


def test_a_type_changed_within_a_batch_is_the_new_one_in_all_rows() -> None:
    frame = retyping(INT8, ["1", str(2**40)], INT4, "3")
    assert frame["v"].to_list() == [1, None, 3]
    assert frame["_text"].to_list() == [None, json.dumps({"v": str(2**40)}), None]


def test_a_column_whose_name_changes_its_case_stays_one_column() -> None:
    before = Table(1002, "wide", (("k", INT4, -1), ("note", TEXT, -1)), ("k",))
    after = Table(1002, "wide", (("k", INT4, -1), ("Note", TEXT, -1)), ("k",))
    result = decoded(
        transaction(100, before.relation(), before.insert("1", "a"), after.relation(), after.insert("2", "b"))
    )
    assert result.frames["wide"]["Note"].to_list() == ["a", "b"]
    assert result.tables["wide"].dropped == ()


@pytest.mark.parametrize(
    ("oid", "modifier", "text", "typed"),
    [
        (NUMERIC, NUMERIC_10_2, "NaN", None),
        (NUMERIC, -1, "Infinity", None),
        (NUMERIC, -1, "1" + "0" * 100, None),
        (NUMERIC, -1, "0.12345678901", Decimal("0.123456789")),
        (DATE, -1, "infinity", None),
        (DATE, -1, "0044-03-15 BC", None),
        (DATE, -1, "12345-01-01", None),
        (TIMESTAMP, -1, "-infinity", None),
        (TIMESTAMP, -1, "0044-03-15 00:00:00 BC", None),
        (TIMESTAMPTZ, -1, "0044-03-15 00:00:00+00 BC", None),
        (TIMESTAMPTZ, -1, "infinity", None),
    ],
)
def test_what_a_column_cannot_hold_is_kept_as_text(oid: int, modifier: int, text: str, typed: object) -> None:
    table = Table(1002, "wide", (("k", INT4, -1), ("v", oid, modifier)), ("k",))
    frame = decoded(transaction(100, table.relation(), table.insert("1", text), table.insert("2", None))).frames["wide"]
    assert frame["v"].to_list() == [typed, None]
    assert json.loads(frame["_text"][0]) == {"v": text}
    assert frame["_text"][1] is None


def test_domains_are_read_as_their_base_type() -> None:
    table = Table(1002, "wide", (("k", INT4, -1), ("v", 16999, -1)), ("k",))
    messages = transaction(100, table.relation(), table.insert("1", "2024-02-29"))
    result = decode(messages, {}, {"wide": 0}, 0, lambda oids: {16999: ColumnType(DATE)})
    assert result.frames["wide"]["v"].to_list() == [date(2024, 2, 29)]


def test_bytes_that_are_no_utf8_keep_an_escape() -> None:
    message = PAYMENTS.insert("1", "AB", "1").replace(b"AB", b"A\xff")
    assert decoded(transaction(100, PAYMENTS.relation(), message)).frames["payments"]["note"].to_list() == ["A\\xff"]


def message_of(op: str, texts: tuple[str | None, ...], old_key: str) -> bytes:
    match op:
        case "c":
            return PAYMENTS.insert(*texts)
        case "u":
            return PAYMENTS.update(*texts)
        case "d":
            return PAYMENTS.delete(texts[0], None, None)
        case "k":
            return PAYMENTS.update(*texts, old=(old_key, None, None))
        case _:
            return truncate(PAYMENTS)


ROW = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.none() | st.decimals(-(10**7), 10**7, places=2),
)
CHANGE = st.tuples(st.sampled_from(["c", "u", "d", "k", "t"]), ROW, st.integers(-(2**63), 2**63 - 1))


@settings(deadline=None)
@given(st.lists(st.lists(CHANGE, max_size=6), max_size=5), st.integers(0, 5))
def test_decoding_equals_the_list_of_changes(transactions: list[list[tuple[str, tuple, int]]], ingested: int) -> None:
    messages: list[bytes] = []
    expected: list[tuple[object, ...]] = []
    described = False
    for number, changes in enumerate(transactions, start=1):
        lsn, built = number * 100, []
        for op, row, old in changes:
            texts = tuple(None if value is None else str(value) for value in row)
            end = (lsn,)
            empty = (None, None, None)
            built.append(message_of(op, texts, str(old)))
            rows = {
                "c": [("c", *row)],
                "u": [("u", *row)],
                "d": [("d", row[0], None, None)],
                "k": [("d", old, None, None), ("u", *row)],
                "t": [("t", *empty)],
            }[op]
            expected += [(*one, *end) for one in rows if number > ingested]
        if built and not described:
            built.insert(0, PAYMENTS.relation())
            described = True
        messages += transaction(lsn, *built)
    result = decode(messages, {}, {"payments": ingested * 100}, 0)
    frame = result.frames.get("payments")
    assert (events(frame, "_op", "id", "note", "amount", "_lsn") if frame is not None else []) == expected
    assert result.end_lsn == len(transactions) * 100
    if frame is not None:
        ordered = frame.select("_lsn", "_seq").rows()
        assert ordered == sorted(set(ordered))
