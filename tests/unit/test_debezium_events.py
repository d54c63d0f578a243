"""Change events become rows with their operation and position, in whatever shape the connector sends them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.sources.kafka.records import RecordDecoder
from tests.change_records import event, plain, records, topic, with_schema

FIELDS = {"id": "int64", "name": "string"}
ROWS = topic(FIELDS, ["id"])
SCHEMA = [{"type": "int64", "field": "id"}, {"type": "string", "field": "name"}]
EVENTS = [
    event("r", None, {"id": 1, "name": "a"}, lsn=100, sequence='[null,"100"]', ts_us=-1),
    event("c", None, {"id": 2, "name": "b"}, lsn=110, sequence='[null,"110"]', ts_ms=1_700_000_000_123),
    event("u", {"id": 2, "name": "b"}, {"id": 2, "name": None}, lsn=115, sequence='["130","115"]', ts_us=7),
    event("d", {"id": 2, "name": None}, None, lsn=140, sequence='["130","140"]', ts_ns=7_999),
    event("t", None, None, lsn=150, sequence='["145","150"]'),
]
EXPECTED = [
    ("r", 1, "a", 100, 100),
    ("c", 2, "b", 110, 110),
    ("u", 2, None, 130, 115),
    ("d", 2, None, 130, 140),
    ("t", None, None, 145, 150),
]
COLUMNS = ["_op", *FIELDS, "_lsn", "_seq"]


def read(config: Any, *args: Any) -> pl.DataFrame:
    return RecordDecoder(config).decode(records(*args))


@pytest.mark.parametrize("has_schema", [False, True])
def test_each_operation(has_schema: bool) -> None:
    frame = read(ROWS, [with_schema(one, SCHEMA) if has_schema else plain(one) for one in EVENTS])
    assert frame["_error"].drop_nulls().to_list() == []
    assert frame.select(COLUMNS).rows() == EXPECTED
    assert frame["_before"].to_list() == [None, None, '{"id":2,"name":"b"}', None, None]
    assert frame["_committed_at"].to_list() == [
        datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
        datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC),
        datetime(1970, 1, 1, 0, 0, 0, 7, UTC),
        datetime(1970, 1, 1, 0, 0, 0, 7, UTC),
        None,
    ]


def test_a_connector_may_be_configured_anew_in_the_middle() -> None:
    flat = {"id": 9, "name": "z", "__op": "c", "__source_lsn": 200}
    values = [plain(EVENTS[0]), with_schema(EVENTS[1], SCHEMA), plain(flat), plain(EVENTS[2])]
    renamed = event("c", None, {"ID": 3, "NAME": "c"}, lsn=160)
    frame = read(ROWS, [*values, plain(renamed)])
    assert frame.select(COLUMNS).rows() == [
        *EXPECTED[:2],
        ("c", 9, "z", 200, 200),
        EXPECTED[2],
        ("c", 3, "c", 160, 160),
    ]


def test_a_key_that_changed_is_a_delete_and_an_insert_at_one_position() -> None:
    values = [
        plain(event("d", {"id": 3, "name": "c"}, None, lsn=9)),
        None,
        plain(event("c", None, {"id": 33, "name": "c"}, lsn=9)),
    ]
    frame = read(ROWS, values, [b'{"id":3}', b'{"id":3}', b'{"id":33}'])
    assert frame.select(COLUMNS).rows() == [
        ("d", 3, "c", 9, 9),
        ("d", 3, None, None, None),
        ("c", 33, "c", 9, 9),
    ]
    assert frame["_raw"].null_count() == frame["_error"].null_count() == 3


@pytest.mark.parametrize(
    "key, written",
    [
        (b'{"id":3}', ""),
        (b'{"ID":3}', "json"),
        (b'{"id":3.0}', "json"),
        (b'{"id":{"scale":0,"value":"Aw=="}}', "json"),
        (plain({"schema": {"type": "struct", "fields": SCHEMA[:1]}, "payload": {"id": 3}}), "json"),
        (b"3", "json"),
        (b"3", "string"),
    ],
)
def test_a_delete_without_its_row_and_a_tombstone_have_the_key(key: bytes, written: str) -> None:
    config = topic(FIELDS, ["id"], key_format=written, decimals="string")
    deleted = event("d", None, None, lsn=9)
    nothing = plain({"schema": None, "payload": None})
    frame = read(config, [plain(deleted), None, nothing], [key] * 3)
    assert frame["_error"].drop_nulls().to_list() == []
    assert frame.select(COLUMNS).rows() == [
        ("d", 3, None, 9, 9),
        ("d", 3, None, None, None),
        ("d", 3, None, None, None),
    ]


def test_a_tombstone_without_a_key_to_read_is_no_change() -> None:
    assert read(topic(FIELDS), [None], [b'{"id":3}'])["_error"].to_list() == ["no value (a tombstone)"]
    frame = read(ROWS, [None, None, None], [None, b"{", b'{"idd":3}'])
    assert frame["_error"].to_list() == [
        "expected a key, since there is no row; got neither",
        "key: not JSON: Input data was truncated",
        "$.id: required field is missing",
    ]


@pytest.mark.parametrize("in_headers", [False, True])
def test_flattened_events(in_headers: bool) -> None:
    meta: list[dict[str, Any]] = [
        {"__op": "r", "__source_lsn": "5"},
        {"__op": "u", "__deleted": "false", "__lsn": 7, "__source_ts_ms": "2"},
        {"__deleted": "true", "__source_scn": "8"},
        {"__deleted": False, "__source_ts_ms": 3},
    ]
    rows = [{"id": number, "name": "x"} for number in range(4)]
    if in_headers:
        headers = [[(name, str(value).lower().encode()) for name, value in one.items()] for one in meta]
        frame = read(ROWS, [plain(row) for row in rows], [], headers)
    else:
        frame = read(ROWS, [plain(row | one) for row, one in zip(rows, meta, strict=True)])
    assert frame["_error"].drop_nulls().to_list() == []
    assert frame.select(COLUMNS).rows() == [
        ("r", 0, "x", 5, 5),
        ("u", 1, "x", 7, 7),
        ("d", 2, "x", 8, 8),
        ("u", 3, "x", None, None),
    ]
    assert frame["_committed_at"].to_list()[1] == datetime(1970, 1, 1, 0, 0, 0, 2_000, UTC)
    assert frame["_before"].null_count() == 4


def test_oracle_names_and_text_positions() -> None:
    config = topic({"id": "int64", "amount": "decimal(12,2)", "received_at": "timestamp"}, ["id"], decimals="double")
    row = {"ID": {"scale": 0, "value": "AQ=="}, "AMOUNT": 10.25, "RECEIVED_AT": -1, "ACCOUNT_ID": None}
    frame = read(
        config,
        [
            plain(event("r", None, row, scn="105", commit_scn=None)),
            plain(event("u", row, row, scn="100", commit_scn="110", start_scn="99", txId="0a00")),
        ],
    )
    assert frame["_error"].drop_nulls().to_list() == []
    assert frame.select("id", "_lsn", "_seq").rows() == [(1, 105, 105), (1, 110, 100)]
    assert str(frame["amount"][0]) == "10.25"
    assert frame["received_at"][0] == datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC).replace(tzinfo=None)


@pytest.mark.parametrize(
    "source, position",
    [
        ({"file": "mysql-bin.000003", "pos": 7, "row": 2}, (3 * 2**32 + 7, 2)),
        ({"change_lsn": "00000027:00000758:0003", "event_serial_no": 2}, (0x27 * 2**32 + 0x758, 3 * 2**32 + 2)),
        ({"change_lsn": None, "commit_lsn": "00000027:00000758:0003"}, (0x27 * 2**32 + 0x758, 3 * 2**32)),
        ({"ts_ms": 5}, (5_000, 0)),
        ({"lsn": 2**63 - 1}, (2**63 - 1, 2**63 - 1)),
    ],
)  # fmt: skip
def test_positions_of_other_databases(source: dict[str, Any], position: tuple[int, int]) -> None:
    frame = read(ROWS, [plain(event("c", None, {"id": 1, "name": "a"}, **source))])
    assert frame.select("_lsn", "_seq").rows() == [position]


@pytest.mark.parametrize(
    "value, reason",
    [
        (b"{", "not JSON: Input data was truncated"),
        (b"\xff{}", "not JSON: invalid character (byte 0)"),
        (b"5", "expected a change event, got int"),
        (plain({"id": 1, "name": "a"}), "expected op and source (a change event), or __op or __deleted"),
        (plain({"op": "c", "after": 5}), "$.after: expected an object, got int"),
        (plain(event("x", None, {"id": 1, "name": "a"})), "$.op: expected one of r, c, u, d, t, got 'x'"),
        (plain({"id": 1, "name": "a", "__op": ["c"]}), "$.op: expected one of r, c, u, d, t, got"),
        (plain(event("c", None, {"id": 1, "name": "a"}, ts_ms=2**62)), "source.ts_ms: expected an integer of 63"),
        (plain(event("c")), "$.after: expected the row, got null"),
        (plain(event("c", None, {"id": 1})), "$.after.name: required field is missing"),
        (plain(event("c", None, {"id": None, "name": "a"})), "$.id: expected int64, got null"),
        (plain(event("c", None, {"id": 1, "name": "a"}, lsn=None)), "source.lsn: expected an integer of 63 bits"),
        (plain(event("c", None, {"id": 1, "name": "a"}, scn="1,2")), "source.scn: expected an integer of 63 bits"),
        (plain(event("c", None, {"id": 1, "name": "a"}, lsn=1, sequence="x")), "source.sequence: expected two LSNs"),
        (plain(event("c", None, {"id": 1, "name": "a"}, file="x", pos=1)), "source.file: expected a log file's name"),
        (plain(event("c", None, {"id": 1, "name": "x" * 100_000})), "longer than FRAUD_MAX_RECORD_BYTES"),
    ],
)
def test_a_record_that_is_no_event_is_kept_with_the_reason(value: bytes, reason: str) -> None:
    good = plain(EVENTS[1])
    for values in ([value], [good, value, good]):
        frame = read(ROWS, values).with_row_index()
        bad = frame.filter(pl.col("_error").is_not_null())
        assert bad["_raw"].to_list() == [value]
        assert bad["_error"][0].startswith(reason)
        assert bad.select("_op", "_lsn", "_seq", "_committed_at", "id", "name").rows() == [(None,) * 6]
        assert frame["_op"].drop_nulls().to_list() == ["c"] * (len(values) - 1)


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
    | st.sampled_from(
        ["1_0", "\uff11", "1e400", "0x1", "-0", "AQ==", "2024-01-01", "2024-13-01T00:00:00Z", "NaN", " 1"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["scale", "value", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
KINDS = ["string", "int32", "int64", "double", "boolean", "decimal(9,2)", "decimal(4,4)", "decimal(38,0)"]
KINDS += ["timestamp", "timestamptz", "date", "time", "binary", "json"]


@given(st.data())
def test_any_json_is_either_read_or_kept_with_the_reason(data: st.DataObject) -> None:
    fields = {f"c{number}": kind for number, kind in enumerate(KINDS)}
    config = topic(
        fields,
        decimals=data.draw(st.sampled_from(["precise", "string"])),
        times=data.draw(st.sampled_from(["adaptive", "nanoseconds"])),
        binaries=data.draw(st.sampled_from(["bytes", "hex"])),
    )
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(fields, ANY)), min_size=1, max_size=3))
    names = ["lsn", "scn", "file", "pos", "ts_ms", "ts_us", "change_lsn", "event_serial_no"]
    sources = st.dictionaries(st.sampled_from(names), ANY | st.just(2**62))
    values = [
        data.draw(
            st.sampled_from(
                [
                    event(data.draw(st.sampled_from("rcudt")), row, row, **data.draw(sources)),
                    row | {"__op": data.draw(ANY | st.just("u")), "__deleted": data.draw(ANY), "__lsn": data.draw(ANY)},
                ]
            )
        )
        for row in rows
    ]
    frame = read(config, [plain(value) for value in values], [plain(data.draw(ANY)) for _ in values])
    for row, value in zip(frame.iter_rows(named=True), values, strict=True):
        assert (row["_op"] is None) == (row["_error"] is not None)
        assert row["_raw"] == (None if row["_error"] is None else plain(value))


def test_values_that_an_update_left_out_are_named() -> None:
    mark = "__debezium_unavailable_value"
    config = topic({"id": "int64", "name": "string", "data": "binary", "tags": "json"}, ["id"])
    row = {"id": 1, "name": mark, "data": "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==", "tags": [mark]}
    whole = {"id": 1, "name": "a", "data": "AA==", "tags": ["b"]}
    frame = read(config, [plain(event("u", None, row)), plain(event("u", None, whole))])
    assert frame["_unchanged"].to_list() == ['["name","data","tags"]', None]
    assert frame.select("name", "data", "tags").rows() == [(None, None, None), ("a", b"\0", '["b"]')]


def test_nested_values_by_path_and_columns_that_came_later() -> None:
    fields = {
        "id": "int64",
        "city": {"type": "string", "path": "address.city", "optional": True},
        "first": {"type": "string", "path": "tags.0", "optional": True},
        "later": {"type": "string", "optional": True},
    }
    rows: list[dict[str, Any]] = [
        {"id": 1, "ADDRESS": {"city": "Bonn"}, "tags": ["a", "b"], "later": "x"},
        {"id": 2, "ADDRESS": {}, "tags": []},
    ]
    frame = read(topic(fields), [plain(event("c", None, row)) for row in rows])
    assert frame["_error"].drop_nulls().to_list() == []
    assert frame.select(*fields).rows() == [(1, "Bonn", "a", "x"), (2, None, None, None)]


def test_the_row_before_an_update_has_declared_fields_only() -> None:
    before = {"id": 1, "name": "a", "password": "secret"}
    frame = read(ROWS, [plain(event("u", before, before | {"name": "b"}))])
    assert json.loads(frame["_before"][0]) == {"id": 1, "name": "a"}
    assert "secret" not in str(frame.to_dicts())
