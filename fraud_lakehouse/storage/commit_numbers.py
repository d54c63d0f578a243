"""Commit numbers: which rows were added to a Delta table since a reader's position. Knows no reader.

Each commit that changes rows has a number, one more than the last. Its rows have it in the column `_commit`, and the
commit itself has it as an app transaction: if two writers use the same number, Delta rejects the second. A position is
such a number: rows with a greater `_commit` are new. Moving rows between files keeps their numbers, so neither old log
entries nor old versions are needed, and any engine can read the same rows.

Rows older than numbering have none and count as 0; position -1 comes before every row. A one-to-one replica has exactly
its source's columns and so no `_commit`: there each commit counts as a rewrite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import ref

import polars as pl
import pyarrow.parquet as pq
from deltalake import DeltaTable, Transaction

from fraud_lakehouse.storage.lake import file_path, scan_files
from fraud_lakehouse.storage.schemas import COMMIT

COMMITS = "fraud_lakehouse:commits"
"""App transaction: number of the newest commit that changed rows."""
REWRITTEN = "fraud_lakehouse:rewritten"
"""App transaction: number of the newest commit that changed or removed existing rows."""
SAME_ROWS = "fraud_lakehouse:same_rows_since"
"""App transaction: since this number, rewrites have only recomputed the rows that existed."""

NOTHING = -1
"""The position of a reader that has read no row."""


@dataclass(frozen=True)
class Commits:
    """The numbers of one version of a table: see `COMMITS`, `REWRITTEN`, `SAME_ROWS`; 0 if there is none."""

    newest: int = 0
    rewritten: int = 0
    same_rows_since: int = 0

    def position_of(self, after: int, *, keeps_rows: bool) -> int | None:
        """Where a reader at position `after` continues; None: rows it has read were changed, so it starts over.

        Args:
            keeps_rows: whether the reader skips rows that were only recomputed.
        """
        if after < 0 or after >= self.rewritten:
            return after
        return self.rewritten if keeps_rows and after >= self.same_rows_since else None

    def after_append(self) -> Commits:
        """The numbers after a commit that only adds rows."""
        return Commits(self.newest + 1, self.rewritten, self.same_rows_since)

    def after_rewrite(self, *, same_rows: bool = False) -> Commits:
        """The numbers after a commit that changes or removes rows.

        Args:
            same_rows: whether the commit recomputes exactly the rows that the table has.
        """
        since = self.newest + 1
        if same_rows:
            was_only_computed_anew = self.rewritten == self.newest > 0
            since = self.same_rows_since if was_only_computed_anew else self.newest
        return Commits(self.newest + 1, self.newest + 1, since)

    def transactions(self, before: Commits) -> list[Transaction]:
        """The app transactions of the commit that leads from `before` to these numbers."""
        found = [Transaction(COMMITS, self.newest)]
        if self.rewritten != before.rewritten:
            found += [Transaction(REWRITTEN, self.rewritten), Transaction(SAME_ROWS, self.same_rows_since)]
        return found


@dataclass(frozen=True)
class Rows:
    """Rows with `after < _commit <= until`.

    `files` (paths or URIs) contain them, and other rows too unless `is_exact`.
    """

    files: list[str]
    after: int
    until: int
    is_exact: bool

    @property
    def sql(self) -> str:
        """The condition in SQL over the files' columns; empty if every row of the files belongs."""
        return (
            "" if self.is_exact else f"coalesce({COMMIT}, 0) > {self.after} and coalesce({COMMIT}, 0) <= {self.until}"
        )

    def scan(self, table: DeltaTable) -> pl.LazyFrame:
        """The rows, with the table's columns."""
        rows = scan_files(table, self.files)
        if self.is_exact:
            return rows
        number = pl.col(COMMIT).fill_null(0)
        return rows.filter((number > self.after) & (number <= self.until))


def commits_of(table: DeltaTable) -> Commits:
    """The numbers of the handle's version."""
    known = _known(table)
    if known.commits is None:
        known.commits = _commits(table)
    return known.commits


def remember(table: DeltaTable, commits: Commits) -> None:
    """Store the numbers of the handle's version: whoever committed it need not read the log."""
    _known(table).commits = commits


def newest(table: DeltaTable) -> int:
    """Number of the newest commit that changed rows, as of the handle's version."""
    return commits_of(table).newest


def is_numbered(table: DeltaTable) -> bool:
    """Whether the table has commit numbers."""
    return any(field.name == COMMIT for field in table.schema().fields)


def rows_since(table: DeltaTable, after: int, until: int | None = None) -> Rows:
    """The rows of commits after number `after`, up to `until` (default: the newest).

    For a table without numbers these are all rows or none.
    """
    known, last = _files_of(table), newest(table)
    until = last if until is None else until
    if after < 0 and until >= last:
        return Rows([file.path for file in known], after, until, is_exact=True)
    files = [file for file in known if file.least <= until and file.greatest > after]
    exact = all(after < file.least and file.greatest <= until for file in files)
    return Rows([file.path for file in files], after, until, is_exact=exact or not is_numbered(table))


def steps(table: DeltaTable, after: int, until: int, most: int) -> Iterator[int]:
    """Numbers at which to stop between `after` and `until`, each with at most `most` rows since the previous one.

    A commit with more rows is a step of its own. The last step is `until`.
    """
    rows = rows_since(table, after, until)
    counted = {file.path: file.rows for file in _files_of(table)}
    if is_numbered(table) and sum(counted[path] for path in rows.files) > most:
        number = pl.col(COMMIT).fill_null(0)
        counts = rows.scan(table).group_by(number.alias("number")).len().sort("number").collect(engine="streaming")
        total, last = 0, after
        for at, count in counts.iter_rows():
            if total and total + count > most:
                yield last
                total = 0
            total, last = total + count, at
    yield until


@dataclass(frozen=True)
class _File:
    """A data file and the range of its rows' commit numbers."""

    path: str
    rows: int
    least: int
    greatest: int


@dataclass
class _Known:
    """Cached facts about one version of a table, filled on first use: each takes milliseconds to read."""

    version: int
    commits: Commits | None = None
    files: Sequence[_File] | None = None


_KNOWN: dict[int, tuple[ref[DeltaTable], _Known]] = {}
"""Per open handle, by its id."""


def _known(table: DeltaTable) -> _Known:
    key, version = id(table), table.version()
    handle, known = _KNOWN.get(key, (None, None))
    if known is None or handle is None or handle() is not table or known.version != version:
        known = _Known(version)
        _KNOWN[key] = ref(table, lambda gone: _forget(key, gone)), known
    return known


def _forget(key: int, gone: ref[DeltaTable]) -> None:
    if key in _KNOWN and _KNOWN[key][0] is gone:
        del _KNOWN[key]


def _commits(table: DeltaTable) -> Commits:
    found = table.transaction_version(COMMITS)
    if found is None:  # a `_commit` column older than the table's own numbering may have values: continue after them
        return Commits(max((file.greatest for file in _files_of(table) if file.greatest < _ANY), default=0))
    rewritten, same = (table.transaction_version(name) or 0 for name in (REWRITTEN, SAME_ROWS))
    return Commits(found, rewritten, same)


def _files_of(table: DeltaTable) -> Sequence[_File]:
    known = _known(table)
    if known.files is None:
        known.files = list(_files(table, has_numbers=is_numbered(table)))
    return known.files


_ANY = 2**62  # the greatest number of a file without statistics


def _files(table: DeltaTable, *, has_numbers: bool) -> Iterator[_File]:
    actions = table.get_add_actions(flatten=True)
    names = set(actions.schema.names)
    columns = ["path", "num_records", f"min.{COMMIT}", f"max.{COMMIT}", f"null_count.{COMMIT}"]
    values = [actions.column(name).to_pylist() if name in names else [None] * actions.num_rows for name in columns]
    for path, rows, least, greatest, nulls in zip(*values, strict=True):
        file = file_path(table, str(path))
        if not has_numbers or (rows is not None and nulls == rows):
            bounds = 0, 0
        elif nulls is None or least is None or greatest is None:
            bounds = _bounds(file)
        else:
            bounds = 0 if nulls else least, greatest
        yield _File(file, rows or 0, *bounds)


@lru_cache(maxsize=65_536)
def _bounds(file: str) -> tuple[int, int]:
    """Least and greatest number in a file without statistics in the log, from its footer; else the whole range."""
    if "://" in file:
        return 0, _ANY
    metadata: Any = pq.read_metadata(file)
    names = metadata.schema.to_arrow_schema().names
    if COMMIT not in names:
        return 0, 0
    place = names.index(COMMIT)
    bounds: list[int] = []
    for group in range(metadata.num_row_groups):
        found = metadata.row_group(group).column(place).statistics
        if found is None or not found.has_null_count or (found.num_values and not found.has_min_max):
            return 0, _ANY
        bounds += [found.min, found.max] if found.num_values else []
        bounds += [0] if found.null_count else []
    return min(bounds, default=0), max(bounds, default=0)
