"""Delta versions that 0.1 kept as positions are read as commit numbers, or not at all."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.sinks.kafka.backlog import DiscontinuityError, backlog, table_id
from fraud_lakehouse.sinks.kafka.position import Position
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform import old_positions
from fraud_lakehouse.transform.old_positions import number_at
from tests.published import OVER, SCHEMAS, Row, identity, over_row

SCHEMA: dict[str, pl.DataType] = {"x": pl.Int64()}
UPSTREAM = ("gold", "t")


class Table:
    """As 0.1 wrote it, and then this version."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake.at(root)
        self.root = Path(self.lake.uri(*UPSTREAM))

    def land(self, *numbers: int, numbered: bool) -> None:
        for number in numbers:
            frame = pl.DataFrame({"x": [number]}, schema=SCHEMA)
            Appender.open(self.lake, *UPSTREAM, SCHEMA, numbered=numbered).append(frame, {})

    @property
    def handle(self) -> DeltaTable:
        return self.lake.open(*UPSTREAM)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    table = Table(tmp_path)
    table.land(1, 2, 3, numbered=False)  # versions 1, 2, 3
    return table


def test_who_had_read_all_there_was_has_read_all_without_a_number(table: Table) -> None:
    assert [number_at(table.handle, version) for version in (-1, 2, 3)] == [-1, None, 0]
    table.handle.optimize.compact()
    assert number_at(table.handle, 3) == 0, "files were merged, and no row came"
    table.land(4, 5, numbered=True)
    assert [number_at(table.handle, version) for version in (2, 3, 4)] == [None, 0, 0]
    newest = table.handle.version()
    assert [number_at(table.handle, version) for version in (newest - 1, newest)] == [1, 2]


def test_what_the_log_no_longer_tells_is_unknown(table: Table) -> None:
    table.land(4, numbered=True)
    handle = table.handle
    handle.create_checkpoint()
    durable.log_entry(table.root, 4).unlink()
    assert number_at(table.handle, 3) is None
    assert number_at(table.handle, handle.version()) == 1


def test_a_position_is_found_by_the_table_it_is_about(table: Table) -> None:
    handle = table.handle
    for kept, number in ((3, 0), (1, None)):
        stored = {old_positions.app_id(UPSTREAM, handle): kept}
        assert old_positions.position(stored.get, UPSTREAM, handle) == number
    assert old_positions.position({}.get, UPSTREAM, handle) is None


class Published:
    """A topic's table as 0.1 wrote it, and what was published of it."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake.at(root)

    def add(self, *numbers: int, numbered: bool) -> None:
        schema = SCHEMAS[OVER.table]
        rows = pl.DataFrame([over_row(number) for number in numbers], schema=schema, orient="row")
        Appender.open(self.lake, "gold", OVER.table, schema, numbered=numbered).append(rows, {})

    def position(self, text: str) -> Position:
        return Position.parse(text.replace("ID", table_id(self.lake.open("gold", OVER.table))), 3)

    def rest(self, position: Position) -> list[Row]:
        found = []
        for piece, behind in backlog(self.lake, OVER, position).pieces(100):
            found += piece.to_dicts()
            position = behind
        assert "v" not in position.text() and position.version is None
        return found


def test_a_published_position_is_understood_once(tmp_path: Path) -> None:
    table = Published(tmp_path)
    table.add(3, 1, 2, numbered=False)
    table.add(6, 5, numbered=False)
    table.add(8, 7, numbered=True)
    everything = table.position('{"t":"ID","v":2,"k":0,"e":0}')
    assert everything.version == 2
    assert [identity(row) for row in table.rest(everything)] == [("t00007", 1), ("t00008", 1)]
    time = _microseconds(over_row(3))
    under_way = table.position(f'{{"t":"ID","v":-1,"u":2,"m":{time},"k":1,"e":0}}')
    assert [identity(row)[0] for row in table.rest(under_way)] == ["t00005", "t00006"]
    for unknown in ('{"t":"ID","v":1,"k":0,"e":0}', f'{{"t":"ID","v":0,"u":1,"m":{time},"k":1,"e":0}}'):
        with pytest.raises(DiscontinuityError, match="no log"):
            table.rest(table.position(unknown))


def _microseconds(row: Row) -> int:
    return int(pl.Series([row["trans_date_trans_time"]]).dt.timestamp("us")[0])
