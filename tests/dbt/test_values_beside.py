"""Values that their columns cannot hold, in keys too: silver has each row of the source, history the texts."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.ingest.bronze import BronzeTable
from tests.dbt.small_lake import CHANGE, Row, SmallLake

FOREVER, SINCE_EVER, IDES, NEW_YEAR = "infinity", "-infinity", "0044-03-15 00:00:00 BC", "2026-01-01 00:00:00"
HUGE, NEAR, NEARER, ROUND = "1" + "0" * 100, "0.1234567891", "0.1234567892", "0.123456789"
SCHEMA: dict[str, pl.DataType] = {
    "id": pl.Int32(),
    "valid_to": pl.Datetime("us"),
    "share": pl.Decimal(38, 9),
    "note": pl.String(),
    **CHANGE,
}
NAMES = ("id", "valid_to", "share", "note")
Texts = dict[str, str | None]


def typed(name: str, text: str | None) -> Any:
    """What the column holds of a value: null or rounded where that is not all."""
    if text is None or name == "note":
        return text
    if name == "valid_to":
        return datetime.fromisoformat(text) if text == NEW_YEAR else None
    if name == "share":
        return None if text in ("NaN", HUGE, HUGE + "0") else round(Decimal(text), 9)
    return int(text)


def beside(values: Texts) -> dict[str, str]:
    unheld = (HUGE, HUGE + "0", NEAR, NEARER, "NaN", FOREVER, SINCE_EVER, IDES)
    return {name: text for name, text in values.items() if text in unheld and name != "note"}


class Source:
    """A table of the source, its rows as texts, and the events that its log would have."""

    def __init__(self, lake: SmallLake, name: str, key: list[str]) -> None:
        self.lake, self.name, self.key = lake, name, key
        self.rows: dict[tuple[str | None, ...], Texts] = {}
        self.lsn = 0
        self._events: list[Row] = []

    def insert(self, **values: str | None) -> None:
        row: Texts = dict.fromkeys(NAMES) | values
        self.rows[self._of(row)] = row
        self._event("c", row)

    def update(self, key: tuple[str | None, ...], unchanged: tuple[str, ...] = (), **values: str | None) -> None:
        row = self.rows.pop(key) | values
        self.rows[self._of(row)] = row
        if self._of(row) != key:
            self._event("d", dict(zip(self.key, key, strict=True)))
        sent = {name: None if name in unchanged else text for name, text in row.items()}
        self._event("u", sent, _unchanged=json.dumps(unchanged) if unchanged else None)

    def delete(self, key: tuple[str | None, ...]) -> None:
        del self.rows[key]
        self._event("d", dict(zip(self.key, key, strict=True)))

    def truncate(self) -> None:
        self.rows.clear()
        self._event("t", {})

    def commit(self) -> None:
        """Land the events since the last time, as one transaction."""
        if not self._events:
            return
        self.lsn += 10
        at = datetime(2026, 1, 1, tzinfo=UTC).replace(second=self.lsn // 10)
        events = [
            event | {"_lsn": self.lsn, "_seq": number, "_committed_at": at}
            for number, event in enumerate(self._events, 1)
        ]
        self._events = []
        frame = pl.DataFrame([{name: event.get(name) for name in SCHEMA} for event in events], schema=SCHEMA)
        BronzeTable.open_or_create(self.lake.lake, self.name, SCHEMA, self.key).append(frame, {})

    def check(self) -> None:
        """Silver is the source as its columns hold it, and the open versions say what they do not hold."""
        silver = Counter(tuple(row[name] for name in NAMES) for row in self.lake.rows("silver", self.name))
        assert silver == Counter(tuple(typed(name, row[name]) for name in NAMES) for row in self.rows.values())
        assert pl.read_delta(self.lake.lake.uri("silver", self.name)).columns == list(NAMES)
        open_versions = [version for version in self.history() if version["valid_to"] is None]
        assert Counter(map(told, open_versions)) == Counter(
            (*(typed(name, row[name]) for name in NAMES), tuple(sorted(beside(row).items())))
            for row in self.rows.values()
        )

    def history(self) -> list[Row]:
        return self.lake.rows("silver", f"{self.name}_history")

    def _of(self, row: Texts) -> tuple[str | None, ...]:
        return tuple(row[name] for name in self.key)

    def _event(self, op: str, row: Texts, **more: Any) -> None:
        text = json.dumps(texts) if (texts := beside(row)) else None
        self._events.append({"_op": op, **{name: typed(name, row[name]) for name in row}, "_text": text, **more})


def told(version: Row) -> tuple[Any, ...]:
    values = [version["source_valid_to" if name == "valid_to" else name] for name in NAMES]
    return (*values, tuple(sorted(json.loads(version["_text"] or "{}").items())))


def content(source: Source) -> tuple[Counter[Any], Counter[Any]]:
    """Silver and history, comparable."""
    silver = Counter(tuple(row.values()) for row in source.lake.rows("silver", source.name))
    times = ("valid_from", "valid_to", "is_deleted", "_lsn", "_seq")
    return silver, Counter((told(row), tuple(row[name] for name in times)) for row in source.history())


def operation(source: Source) -> str:
    """What the last build did to the replica."""
    return str(source.lake.lake.open("silver", source.name).history(1)[0]["operationParameters"]["mode"])


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[SmallLake]:
    made = SmallLake(tmp_path / "lake")
    yield made
    made.transformer.close()


@pytest.fixture
def periods(lake: SmallLake) -> Source:
    return Source(lake, "periods", ["id", "valid_to"])


@pytest.fixture
def tokens(lake: SmallLake) -> Source:
    return Source(lake, "tokens", ["share"])


def build(*sources: Source, full_refresh: bool = False) -> None:
    """Land what is new and bring silver up to date."""
    for source in sources:
        source.commit()
    lake = sources[0].lake
    lake.transformer.reload()
    captured = [model.name for model in lake.transformer.compiled.models if model.is_generated]
    lake.build_only(*captured, full_refresh=full_refresh)
    for source in sources:
        source.check()


def test_rows_that_are_valid_for_ever_are_inserted_updated_and_deleted(periods: Source, tokens: Source) -> None:
    for one in ("1", "2", "3"):
        periods.insert(id=one, valid_to=FOREVER, note=f"first {one}", share="NaN")
    tokens.insert(share=HUGE, note="huge")
    build(periods, tokens)

    periods.update(("1", FOREVER), ("note", "share"))
    periods.update(("2", FOREVER), valid_to=NEW_YEAR)
    periods.insert(id="2", valid_to=FOREVER, note="second 2", share="1.5")
    periods.delete(("3", FOREVER))
    tokens.update((HUGE,), note="huger")
    build(periods, tokens)
    assert (operation(periods), operation(tokens)) == ("Append", "Append"), "cost by new rows"
    ended = [version for version in periods.history() if version["is_deleted"]]
    assert [(version["id"], version["note"]) for version in ended if version["id"] == 3] == [(3, "first 3")]

    periods.truncate()
    periods.insert(id="2", valid_to=FOREVER, note="third 2")
    build(periods, tokens)
    stored = content(periods)
    build(periods, tokens, full_refresh=True)
    assert content(periods) == stored


def test_keys_that_are_alike_in_their_columns_stay_apart(periods: Source, tokens: Source) -> None:
    for one in ("1", "2"):
        periods.insert(id=one, valid_to=FOREVER, note="end")
    tokens.insert(share=NEAR, note="near")
    tokens.insert(share=HUGE, note="huge")
    build(periods, tokens)

    periods.insert(id="1", valid_to=SINCE_EVER, note="begin")
    tokens.insert(share=ROUND, note="round")  # its column holds it: no text tells that `near` is another
    build(periods, tokens)

    periods.delete(("1", FOREVER))
    tokens.update((NEAR,), share=NEARER)
    build(periods, tokens)

    periods.update(("2", FOREVER), note="changed")
    tokens.delete((ROUND,))
    build(periods, tokens)
    assert operation(periods) == "Append", "keys alike elsewhere in the table cost nothing"

    for source in (periods, tokens):
        source.insert(id="3", valid_to=IDES, share=HUGE + "0", note="one")
        source.truncate()
        source.insert(id="3", valid_to=NEW_YEAR, share="5", note="left")
    build(periods, tokens)


@pytest.mark.parametrize("seed", [1, 2])
def test_any_changes_leave_what_the_source_has(periods: Source, tokens: Source, seed: int) -> None:
    dice = random.Random(seed)
    for batch in range(4):
        for source in (periods, tokens):
            for number in range(dice.randint(1, 8)):
                change(source, dice, f"{batch}.{number}")
            if dice.random() < 0.2:
                source.truncate()
                change(source, dice, f"{batch}.last")
        build(periods, tokens)
    stored = [content(source) for source in (periods, tokens)]
    build(periods, tokens, full_refresh=True)
    assert [content(source) for source in (periods, tokens)] == stored


def change(source: Source, dice: random.Random, note: str) -> None:
    """One operation on a random row, if there can be one."""
    dates, shares = (FOREVER, SINCE_EVER, IDES, NEW_YEAR), (HUGE, NEAR, NEARER, ROUND, "NaN", "5")
    new: dict[str, str | None] = {"id": dice.choice("12"), "valid_to": dice.choice(dates), "share": dice.choice(shares)}
    key = tuple(new[name] for name in source.key)
    if not source.rows or dice.random() < 0.4:
        if key not in source.rows:
            source.insert(**new, note=note)
        return
    old = dice.choice(sorted(source.rows))
    if dice.random() < 0.3:
        source.delete(old)
    elif dice.random() < 0.5 and (key == old or key not in source.rows):
        source.update(old, ("note",), **{name: new[name] for name in source.key})
    else:
        kept = dice.choice([("note",), ("share", "note"), ("share",)])
        source.update(old, tuple(name for name in kept if name not in source.key), id=source.rows[old]["id"])
