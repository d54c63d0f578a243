"""What is committed as the position, and which rows come after it, whatever happens in between."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.sinks.kafka import backlog as backlog_module
from fraud_lakehouse.sinks.kafka.backlog import DiscontinuityError, backlog, begin, end, newest_versions
from fraud_lakehouse.sinks.kafka.position import Position
from fraud_lakehouse.storage.lake import Lake
from tests.published import OVER, TUMBLE, add, identity, over_row, window_row


@given(
    st.builds(
        Position,
        table=st.text(max_size=40),
        commit=st.integers(-1, 2**40),
        until=st.none() | st.integers(0, 2**40),
        time=st.none() | st.integers(-(2**62), 2**62),
        at_time=st.integers(0, 2**31),
        epoch=st.integers(0, 1000),
        published=st.integers(0, 2**60),
    )
)
def test_a_position_is_read_back_as_it_was_written(position: Position) -> None:
    assert Position.parse(position.text(), position.published) == position


@pytest.mark.parametrize("text", ["", "7", "[]", "{}", '{"v":1}', '{"t":"a","other":1}', "not json"])
def test_what_another_program_wrote_is_no_position(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 JSON's and ours
        Position.parse(text, 3)


@given(
    commits=st.lists(st.integers(0, 7), min_size=1, max_size=5),
    most=st.integers(1, 9),
    chunk=st.integers(1, 9),
    pauses=st.lists(st.integers(0, 3), min_size=40, max_size=40),
    compacts=st.booleans(),
    of_windows=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_every_row_comes_once_and_in_order_wherever_a_reader_is_killed(
    tmp_path_factory: pytest.TempPathFactory,
    commits: list[int],
    most: int,
    chunk: int,
    pauses: list[int],
    compacts: bool,
    of_windows: bool,
) -> None:
    """Killed after any piece: what was read by then is read no more, the rest is, in the order of one stretch."""
    topic, make = (TUMBLE, window_row) if of_windows else (OVER, over_row)
    lake = Lake.at(tmp_path_factory.mktemp("lakes") / uuid4().hex)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backlog_module, "READ_ROWS", chunk)
        numbers, pending = iter(range(1000)), list(commits)
        rows = [make(next(numbers)) for _ in range(pending.pop(0))]
        add(lake, topic.table, rows)
        position, got = begin(lake, topic), []
        for pause in [*pauses, 1000]:
            for number, (piece, behind) in enumerate(backlog(lake, topic, position).pieces(most)):
                if number == pause:
                    break
                got += piece.to_dicts()
                position = behind
                assert position.published == len(got)
            if pending:
                rows += (new := [make(next(numbers), version=1 + len(pending) % 2) for _ in range(pending.pop(0))])
                add(lake, topic.table, new)
            if compacts and pause == 2:
                DeltaTable(lake.uri("gold", topic.table)).optimize.compact()
        while (left := backlog(lake, topic, position)).rows is not None:
            for piece, behind in left.pieces(most):
                got, position = got + piece.to_dicts(), behind
        assert sorted(map(identity, got), key=repr) == sorted(map(identity, rows), key=repr)
        assert position.until is None
        shutil.rmtree(lake.root)


def test_a_stretch_is_in_order_of_event_time_then_key(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    add(lake, OVER.table, [over_row(number) for number in (5, 3, 9, 0, 4)])
    [(rows, behind)] = backlog(lake, OVER, begin(lake, OVER)).pieces(100)
    assert rows["trans_num"].to_list() == ["t00000", "t00003", "t00004", "t00005", "t00009"]
    assert behind == end(lake, OVER, published=5)


def test_files_merged_since_are_nothing_new(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    for number in range(4):
        add(lake, OVER.table, [over_row(number)])
    position = end(lake, OVER)
    DeltaTable(lake.uri("gold", OVER.table)).optimize.compact()
    assert backlog(lake, OVER, position).rows is None


def test_a_table_built_anew_cut_or_set_back_has_no_backlog(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    add(lake, OVER.table, [over_row(1)])
    add(lake, OVER.table, [over_row(2)])
    position = end(lake, OVER)
    with pytest.raises(DiscontinuityError, match="restored"):
        backlog(lake, OVER, position.finished(position.commit + 1))
    add(lake, OVER.table, [over_row(3)], mode="overwrite")
    with pytest.raises(DiscontinuityError, match="rebuilt"):
        backlog(lake, OVER, position)
    [(rows, _)] = backlog(lake, OVER, begin(lake, OVER)).pieces(100)
    assert rows["trans_num"].to_list() == ["t00003"], "who has published nothing begins with it"
    shutil.rmtree(lake.uri("gold", OVER.table))
    add(lake, OVER.table, [over_row(1)])
    with pytest.raises(DiscontinuityError, match="created anew"):
        backlog(lake, OVER, position)


def test_the_newest_version_of_each_key(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    add(lake, TUMBLE.table, [window_row(3), window_row(1), window_row(3, version=2, is_deleted=True)])
    rows, behind = newest_versions(lake, TUMBLE)
    assert rows.select("user_id", "version", "is_deleted").rows() == [(1, 1, False), (None, 2, True)]
    assert isinstance(rows, pl.DataFrame)
    assert behind == end(lake, TUMBLE)
