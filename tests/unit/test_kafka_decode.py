"""A chunk read at once gives what each record gives alone; what is not of the twelve fields is kept."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.demo.card_record import FIELDS, encode
from fraud_lakehouse.sources.kafka.formats import json as kafka_decode
from fraud_lakehouse.sources.kafka.records import RawRecords
from tests.fixtures_kafka import CARDS, card, decode

GOOD = encode(card(1))
DECODER = kafka_decode.JsonDecoder(CARDS.fields)
read_values = DECODER.read


def plain(*values: bytes) -> bool:
    """Whether the values are read at once."""
    return DECODER._read_plain(list(values), 10_000) is not None


def alone(values: list[bytes | None]) -> list[tuple[object, ...]]:
    """Each value read by itself, strictly: fields, error and further fields."""
    rows: list[tuple[object, ...]] = []
    for value in values:
        read = DECODER._read_each([value], 10_000)
        rows.append((*read.frame.row(0), read.errors.get(0), read.extras.get(0)))
    return rows


def together(values: list[bytes | None]) -> list[tuple[object, ...]]:
    read = read_values(values, 10_000)
    return [(*row, read.errors.get(at), read.extras.get(at)) for at, row in enumerate(read.frame.iter_rows())]


def replaced(old: bytes, new: bytes) -> bytes:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


SPACED = json.dumps(json.loads(GOOD)).encode()
TURNED = json.dumps(dict(reversed(json.loads(GOOD).items())), separators=(",", ":")).encode()


def test_usual_records_are_read_at_once() -> None:
    assert plain(GOOD) and plain(GOOD, GOOD, TURNED) and plain(SPACED, SPACED)
    assert plain(replaced(b"Waters", "Ærøskøbing {x}: ".encode()))
    assert plain(replaced(b"Waters", rb"a\"b\\c\\\"\/\u00e9\n"))
    assert plain(replaced(b"82.55", b"-8e1"), replaced(b"82.55", b"82"))


# Each pair keeps the number of quotes and of texts, so that the one hides the other.
HIDING = [
    (b'"Waters"', b'12,"x":"y"'),
    (b'"53186"', b'53186,"zip":"53186"'),
    (b'"53186"', b'53186,"x":1'),
    (b'"Waters","zipcode":"53186"', b'":","zipcode":53186,"x":1'),
    (b'"zipcode":"53186"', b'"zipcode":[":"]'),
    (b'"zipcode":"53186"', b'"zipcode":53186,"a":":"'),
    (b'"Waters"', b'":"'),
    (b'"Waters"', b'": "'),
    (b'"Waters"', b'":\\":"'),
    (b'"Waters"', b'{"a":"b"}'),
    (b'"Waters"', b'true,"":""'),
    (b'"amt":82.55', b'"amt":82.55,"amt":1'),
    (b'"last":"Waters"', b'"last":"Waters","last":"Banks"'),
    (b'"amt":82.55', b'"amt":82.55,"x":{"y":[1,{"z":"w"}]}'),
    (b'"is_fraud":0', b'"is_fraud":2'),
    (b'"Waters"', b'"\\ud800"'),
    (b'"Waters"', b'"\\ud83d\\ude00"'),
    (b'"Waters"', b'"\xff"'),
    (b'"Waters"', b'"\xed\xa0\x80"'),
    (b'"amt":', b'"amt" \t:\r '),
    (b'"amt":', b'"\\u0061mt":'),
    (b"82.55", b"0.1e-400"),
    (b"82.55", b"NaN"),
    (b"2024-01-01 00", b"2024-1-01 000"),
]


@pytest.mark.parametrize("old, new", HIDING)
def test_nothing_hides_in_a_chunk(old: bytes, new: bytes) -> None:
    for values in ([replaced(old, new)], [GOOD, replaced(old, new), GOOD], [replaced(old, new)] * 3):
        assert together(values) == alone(values)


changes = st.sampled_from(HIDING)
texts = st.text(alphabet='":,{}[]\\ aé\n\x00', max_size=6)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.integers()
scalars = texts | numbers | st.booleans() | st.none()
loose = st.dictionaries(st.sampled_from((*FIELDS, "x", "")), scalars | st.lists(texts, max_size=2), max_size=3)
styles: st.SearchStrategy[Callable[[object], str]] = st.sampled_from(
    [
        lambda found: json.dumps(found, separators=(",", ":"), ensure_ascii=False),
        json.dumps,
        lambda found: json.dumps(found, indent=1),
    ]
)
records = st.one_of(
    st.just(GOOD),
    st.builds(lambda one: replaced(*one), changes),
    st.builds(lambda found, style: style(json.loads(GOOD) | found).encode(errors="surrogatepass"), loose, styles),
    st.none(),
    st.sampled_from([b"", b" ", b"\n", b"{}", b"null", GOOD + b"\n", b'"":', GOOD[:100], GOOD[100:]]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(records, min_size=1, max_size=6))
def test_read_at_once_or_alone_is_the_same(values: list[bytes | None]) -> None:
    assert together(values) == alone(values)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_amounts_are_read_to_the_last_bit(amounts: list[float]) -> None:
    values: list[bytes | None] = [replaced(b"82.55", repr(amount).encode()) for amount in amounts]
    assert read_values(values).frame["amt"].to_list() == amounts


def test_one_odd_record_slows_only_its_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    slow: list[int] = []
    each = DECODER._read_each

    def counted(values: list[bytes | None], most_bytes: int) -> kafka_decode.ReadValues:
        slow.append(len(values))
        return each(values, most_bytes)

    monkeypatch.setattr(DECODER, "_read_each", counted)
    values: list[bytes | None] = [encode(card(number)) for number in range(5_000)]
    values[3_210] = b"{"
    read = read_values(values)
    assert slow == [1_000]
    assert read.errors == {3_210: "not JSON: Input data was truncated"}
    assert read.frame["trans_num"].null_count() == 1 and read.frame["trans_num"][4_999] == f"{4_999:032x}"


@pytest.mark.parametrize(
    "old, new, extra",
    [
        (b"}", b',"city":"X\\n","geo":{"lat":1.50}}', '{"city":"X\\n","geo":{"lat":1.50}}'),
        (b'{"', b'{"n": [1, 2.0 ], "', '{"n":[1, 2.0 ]}'),
        (b"}", b',"big":123456789012345678901234567890}', '{"big":123456789012345678901234567890}'),
    ],
)
def test_further_fields_are_kept_as_they_came(old: bytes, new: bytes, extra: str) -> None:
    frame = decode(RawRecords("t", [0], [0], [0], [replaced(old, new)]))
    assert (frame["_error"][0], frame["_raw"][0], frame["_extra"][0]) == (None, None, extra)


@pytest.mark.parametrize("key", [b"amt", b"x"])
def test_a_key_there_twice_is_an_error(key: bytes) -> None:
    for value in (replaced(b"}", b',"%b":1,"%b":1}' % (key, key)), replaced(b"}", b', "%b" : 1, "%b":2}' % (key, key))):
        assert read_values([value]).errors == {0: f"$.{key.decode()}: there more than once"}
    nested = replaced(b"}", b',"y":{"%b":1,"%b":2}}' % (key, key))  # its text is kept as it came: nothing is lost
    assert read_values([nested]).extras == {0: f'{{"y":{{"{key.decode()}":1,"{key.decode()}":2}}}}'}


@given(st.lists(st.integers(0, 60), min_size=1, max_size=30), st.integers(-60, 200))
def test_only_values_that_are_too_long_are_kept_whole(blanks: list[int], over: int) -> None:
    values = [GOOD + b" " * count for count in blanks]
    errors = read_values(values, len(GOOD) + over).errors
    assert set(errors) == {row for row, count in enumerate(blanks) if count > over}
    assert all(error.startswith("longer than FRAUD_MAX_RECORD_BYTES") for error in errors.values())


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 50))
def test_lines_are_short_only_if_none_is_longer(sizes: list[int], most: int) -> None:
    lines = b"\n".join(b"x" * size for size in sizes)
    assert not kafka_decode._are_short(lines, most) or max(sizes, default=0) <= most
    assert kafka_decode._are_short(lines, 4 * max(sizes, default=0) + 4), (
        "no line is looked at where all are far shorter"
    )


def test_a_value_that_is_too_long_is_kept_whole() -> None:
    frame = decode(RawRecords("t", [0] * 2, [0, 1], [0] * 2, [GOOD, GOOD + b" " * 50]), len(GOOD))
    assert frame["_error"].to_list() == [
        None,
        f"longer than FRAUD_MAX_RECORD_BYTES: {len(GOOD) + 50} bytes, at most {len(GOOD)} are read",
    ]
    assert frame["_raw"].to_list() == [None, GOOD + b" " * 50]


def test_keys_and_headers_are_kept() -> None:
    headers = [[("a", b"x"), ("a", "é".encode()), ("b", b"\xff"), ("c", None), ("d", b"")], None]
    frame = decode(RawRecords("t", [0] * 2, [0, 1], [0] * 2, [GOOD, None], [b"\x00k", b"gone"], headers))  # type: ignore[arg-type]
    assert frame["_key"].to_list() == [b"\x00k", b"gone"]
    assert frame["_error"][1] == "no value (a tombstone)"
    assert frame["_headers"][1] is None
    assert json.loads(frame["_headers"][0]) == [
        ["a", "text", "x"],
        ["a", "text", "é"],
        ["b", "base64", "/w=="],
        ["c", "null", None],
        ["d", "text", ""],
    ]
