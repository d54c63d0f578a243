"""Whatever its files hold, a pipeline folder gives a pipeline, or mistakes with lines that are in the files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraud_lakehouse.pipeline import Mistake, Pipeline, PipelineError, find_mistakes, load_pipeline
from tests.declared import SHIPPED

FILES = {name: (SHIPPED / name).read_text() for name in ("sources.yml", "streams.yml")}
VALUES = {name: yaml.safe_load(text) for name, text in FILES.items()}
WORDS = sorted(
    {"name", "from_", "decimal(12,2)", "decimal(99,99)", "users", "wires", "x=y", "a://b", "prefix", "slot", "rates"}
    | {"exists_in", "column", "table", "path", "max_amount", "lateness", "30 minutes", "Europe/Paris", "", "json", "É"}
    | {str(part) for text in FILES.values() for part in text.replace(":", " ").split() if part.isidentifier()}
)

scalars = st.one_of(
    st.sampled_from(WORDS),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=4),
)
trees = st.recursive(
    scalars | st.sampled_from([[], {}, [[]], {"name": "x"}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars, inner, max_size=4),
    max_leaves=8,
)


def outcome(files: dict[str, bytes]) -> tuple[Pipeline | None, list[Mistake]]:
    """What loading gives, checked against what the files are."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        mistakes = find_mistakes(Path(folder), {})
        if not mistakes:
            return load_pipeline(Path(folder), {}), []
        with pytest.raises(PipelineError) as raised:
            load_pipeline(Path(folder), {})
    assert list(raised.value.mistakes) == mistakes
    for one in mistakes:
        lines = files[one.file].decode("utf-8-sig", "replace").splitlines()
        assert 1 <= one.line <= max(len(lines), 1), one
        assert one.problem.isprintable(), one
    return None, mistakes


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every location below the top of a tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def mutated(value: Any, at: tuple[Any, ...], how: str, new: Any) -> Any:
    """A copy with the value or key at a location deleted, renamed or replaced, or an entry put in next to it."""
    items = list(enumerate(value)) if isinstance(value, list) else list(value.items())
    result: list[tuple[Any, Any]] = []
    for key, inner in items:
        if key != at[0]:
            result.append((key, inner))
        elif len(at) > 1:
            result.append((key, mutated(inner, at[1:], how, new)))
        elif how == "replace":
            result.append((key, new))
        elif how == "rename":
            result.append((new, inner))
        elif how == "insert":
            result += [(key, inner), (new, inner)]
    return [inner for _, inner in result] if isinstance(value, list) else dict(result)


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, bytes]:
    """The shipped files with some mutations of what they hold."""
    values = dict(VALUES)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(values)))
        locations = list(places(values[name]))
        if not locations:
            continue
        at, how = draw(st.sampled_from(locations)), draw(st.sampled_from(["delete", "rename", "replace", "insert"]))
        new = draw(trees if how == "replace" else scalars)
        values[name] = mutated(values[name], at, how, new)
    style = draw(st.sampled_from([None, False, True]))
    return {name: yaml.safe_dump(one, default_flow_style=style).encode() for name, one in values.items()}


@given(mutations())
@settings(deadline=None, max_examples=300)
def test_mutated_values_give_a_pipeline_or_mistakes_with_lines(files: dict[str, bytes]) -> None:
    outcome(files)


@given(
    st.sampled_from(sorted(FILES)),
    st.lists(
        st.tuples(
            st.integers(0, 4000),
            st.integers(0, 40),
            st.binary(max_size=6)
            | st.text(max_size=6).map(str.encode)
            | st.sampled_from([b"\t", b"&a ", b"*a", b"!!x ", b"? ", b"- ", b": ", b"{", b"[", b"'", b'"\\u0000"'])
            | st.sampled_from([b"\n", b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"---\n", b"<<: ", b"%"]),
        ),
        min_size=1,
        max_size=5,
    ),
)
@example("sources.yml", [(0, 4000, b"")])
@example("sources.yml", [(0, 4000, b"[" * 2000)])
@settings(deadline=None, max_examples=300)
def test_mutated_bytes_give_a_pipeline_or_mistakes_with_lines(name: str, edits: list[tuple[int, int, bytes]]) -> None:
    content = FILES[name].encode()
    for start, length, new in edits:
        content = content[:start] + new + content[start + length :]
    outcome({other: text.encode() for other, text in FILES.items()} | {name: content})


PLANTED = [  # file, what the first such line begins with, what it begins with instead
    ("sources.yml", "  dsn_env: FRAUD_POSTGRES_DSN ", "  dsn_env: postgresql://u:p@h/db "),
    ("sources.yml", "  tables_env: FRAUD_POSTGRES_TABLES", "  tabels_env: FRAUD_POSTGRES_TABLES"),
    ("sources.yml", "  servers_env: FRAUD_KAFKA_BOOTSTRAP_SERVERS ", "  servers_env: localhost:9092 "),
    ("sources.yml", "  config_file_env: FRAUD_KAFKA_CONFIG_FILE ", "  config_file_env: [a] "),
    ("sources.yml", "    - topic: transaction ", "    - topic: a topic "),
    ("sources.yml", "      topic_env: FRAUD_KAFKA_TOPIC", "      topic_enw: FRAUD_KAFKA_TOPIC"),
    ("sources.yml", "      format: json", "      format: protobuf"),
    ("sources.yml", "        first: string", "        _first: string"),
    ("sources.yml", "        last: string", "        last: {path: a..b, type: string}"),
    ("sources.yml", "        zipcode: string", "        zipcode: strng"),
    ("sources.yml", "        dob: string", "        dob: {kind: string, type: string}"),
    ("streams.yml", "  kind: changes", "  kind: change"),
    ("streams.yml", "  timezone: UTC", "  timezone: Utopia"),
    ("streams.yml", "  currency: USD", "  currency: usd"),
    ("streams.yml", "  event: transaction", "  event: 5"),
    ("streams.yml", "    user: {key: user_id, about: the user,", "    user: {key: [], about: the user,"),
    ("streams.yml", "  id: trans_num", "  id: trans_no"),
    ("streams.yml", "  amount: amt", "  amount: merchant"),
    ("streams.yml", "  label: is_fraud", "  lable: is_fraud"),
    ("streams.yml", "    card: cc_num", "    card: ccnum"),
    ("streams.yml", "    merchant: merchant", "    merchant: [merchant, merchant]"),
    ("streams.yml", "    category: {key: category,", "    category: {kee: category, key: category,"),
    ("streams.yml", "    user_category: {key:", "    userCategory: {key:"),
]


@given(st.sets(st.sampled_from(PLANTED)))
@example(set(PLANTED))
@settings(deadline=None, max_examples=300)
def test_planted_mistakes_are_all_reported_and_no_others(planted: set[tuple[str, str, str]]) -> None:
    files, expected = {name: text.splitlines() for name, text in FILES.items()}, set()
    for name, right, wrong in planted:
        index = next(index for index, line in enumerate(FILES[name].splitlines()) if line.startswith(right))
        files[name][index] = files[name][index].replace(right, wrong, 1)
        expected.add((name, index + 1))
    assert len(expected) == len(planted)
    _, mistakes = outcome({name: "\n".join(lines).encode() for name, lines in files.items()})
    assert {(one.file, one.line) for one in mistakes} == expected
