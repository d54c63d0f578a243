"""Upkeep changes no row and keeps what a week's readers need; the writer lock dies with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.compaction import Tier, merge_small_files
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.maintenance import maintain, maintain_table
from fraud_lakehouse.storage.writer_lock import is_held, process_lock, writer_lock

SCHEMA: dict[str, pl.DataType] = {"x": pl.Int64(), "text": pl.String()}


def filled(tmp_path: Path, commits: int) -> Appender:
    table = Appender.open(Lake.at(tmp_path), "bronze", "t", SCHEMA)
    for number in range(1, commits + 1):
        table.append(pl.DataFrame({"x": [number], "text": ["a"]}, schema=SCHEMA), {"a": number})
    return table


def test_upkeep_compacts_and_changes_no_row(tmp_path: Path) -> None:
    table = filled(tmp_path, 12)
    (done,) = maintain(Lake.at(tmp_path))
    assert (done.layer, done.table, done.files_before, done.files_after) == ("bronze", "t", 12, 1)
    assert 0 < done.bytes_after < done.bytes_before
    assert done.files_vacuumed == 0, "files of the last week stay for readers of older versions"
    handle = DeltaTable(str(tmp_path / "bronze/t"))
    assert handle.transaction_version("a") == 12
    assert pl.read_delta(str(tmp_path / "bronze/t"))["x"].sort().to_list() == list(range(1, 13))
    assert pl.read_delta(str(tmp_path / "bronze/t"), version=5).height == 5
    assert list((tmp_path / "bronze/t/_delta_log").glob("*.checkpoint*.parquet"))
    table.append(pl.DataFrame({"x": [13], "text": ["a"]}, schema=SCHEMA), {"a": 13})
    assert pl.read_delta(str(tmp_path / "bronze/t")).height == 13


def merge(handle: DeltaTable, root: Path) -> None:
    merge_small_files(handle, root, Tier(0, 10_000, 2))


def replace(_: DeltaTable, root: Path) -> None:
    Appender.open(Lake.at(root.parent.parent), "bronze", "t", SCHEMA).replace(SCHEMA)


def append(_: DeltaTable, root: Path) -> None:
    table = Appender.open(Lake.at(root.parent.parent), "bronze", "t", SCHEMA)
    table.append(pl.DataFrame({"x": [5], "text": ["a"]}, schema=SCHEMA), {"a": 5})


def rows_deleted(handle: DeltaTable, _: Path) -> None:
    handle.delete("x < 3")


@pytest.mark.parametrize("first, second", [(merge, merge), (append, merge), (replace, merge), (rows_deleted, merge)])
def test_two_rewrites_at_once_double_nothing(
    tmp_path: Path, first: Callable[[DeltaTable, Path], None], second: Callable[[DeltaTable, Path], None]
) -> None:
    filled(tmp_path, 4)
    root = tmp_path / "bronze/t"
    one, two = DeltaTable(str(root)), DeltaTable(str(root))
    first(one, root)
    kept = pl.read_delta(str(root))["x"].sort().to_list()
    assert kept == {merge: [1, 2, 3, 4], append: [1, 2, 3, 4, 5], replace: [], rows_deleted: [3, 4]}[first]
    with pytest.raises(CommitFailedError):
        second(two, root)
    assert pl.read_delta(str(root))["x"].sort().to_list() == kept


def test_a_merge_reads_columns_added_later_as_null_and_is_no_news(tmp_path: Path) -> None:
    table = filled(tmp_path, 2)
    table.append(pl.DataFrame({"x": [3], "text": ["a"], "more": [1.5]}), {"a": 3})
    root = tmp_path / "bronze/t"
    handle = DeltaTable(str(root))
    version = handle.version()
    merge_small_files(handle, root, Tier(0, 10_000, 2))
    handle.update_incremental()
    assert len(handle.file_uris()) == 1
    assert pl.read_delta(str(root))["more"].to_list() == [None, None, 1.5]
    entry = durable.log_entry(root, version + 1).read_text()
    assert '"dataChange":true' not in entry


def test_a_busy_table_keeps_few_files(tmp_path: Path) -> None:
    table = filled(tmp_path, 105)
    files = DeltaTable(str(tmp_path / "bronze/t")).file_uris()
    assert len(files) < 10
    assert table.position("a") == 105
    assert pl.read_delta(str(tmp_path / "bronze/t"))["x"].sort().to_list() == list(range(1, 106))


def test_upkeep_removes_old_files_that_no_commit_names(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    orphans = [tmp_path / f"bronze/t/part-00000-{age}-c000.zstd.parquet" for age in ("old", "new")]
    for orphan in orphans:
        orphan.write_bytes(b"rows of a process killed between Parquet and commit")
    eight_days_ago = time.time() - 8 * 86_400
    os.utime(orphans[0], (eight_days_ago, eight_days_ago))
    done = maintain_table(Lake.at(tmp_path), "bronze", "t")
    assert done.files_vacuumed == 1
    assert [orphan.exists() for orphan in orphans] == [False, True]
    assert pl.read_delta(str(tmp_path / "bronze/t")).height == 1


def test_upkeep_twice_does_nothing_more(tmp_path: Path) -> None:
    filled(tmp_path, 12)
    maintain(Lake.at(tmp_path))
    (again,) = maintain(Lake.at(tmp_path))
    assert (again.files_before, again.files_after) == (1, 1)


def test_upkeep_refuses_a_short_retention_and_a_missing_table(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with pytest.raises(ValueError, match="168"):
        maintain(Lake.at(tmp_path), retention_hours=24)
    with pytest.raises(LakeError, match="bronze/nothing"):
        maintain_table(Lake.at(tmp_path), "bronze", "nothing")


HOLDER = """
import sys, time
from pathlib import Path
from fraud_lakehouse.storage.writer_lock import writer_lock
with writer_lock(Path(sys.argv[1]), 0):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ConcurrentWriterError, match=rf"process {holder.pid} .*beside\.lock"),
            writer_lock(tmp_path, 0.1),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with writer_lock(tmp_path, 5):
        assert (tmp_path / "beside.lock").read_text().split()[0] == str(os.getpid())


IMPATIENT = """
import sys
from pathlib import Path
from fraud_lakehouse.storage.writer_lock import writer_lock
print("waiting", flush=True)
with writer_lock(Path(sys.argv[1]), 30):
    print("held", flush=True)
"""


def test_a_busy_holder_lets_a_waiting_process_in(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPATIENT, str(tmp_path)]
    with ExitStack() as started:
        with writer_lock(tmp_path, 0):
            waiting = started.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "waiting\n"
        turns = 0
        while waiting.poll() is None:  # takes the lock again at once, as a busy cycle does
            with writer_lock(tmp_path, 30):
                time.sleep(0.1)
            turns += 1
            assert turns < 100, "the waiting process never got its turn"
        assert waiting.stdout.read() == "held\n"


def test_who_waits_in_the_queue_does_its_other_work_meanwhile(tmp_path: Path) -> None:
    with ExitStack() as first_in_line:
        first_in_line.enter_context(process_lock(tmp_path / "beside.queue", 0, "waits"))
        with writer_lock(tmp_path, 30, meanwhile=first_in_line.close):
            assert not is_held(tmp_path / "beside.queue")


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writer_lock(tmp_path, 0):
        raise ZeroDivisionError
    with writer_lock(tmp_path, 0):
        pass


def test_a_lock_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="FRAUD_WORK"), writer_lock(tmp_path / "file", 0):
        pass
