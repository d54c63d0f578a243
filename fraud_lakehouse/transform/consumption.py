"""What a model has consumed of each upstream table: a position kept in the model's own Delta commits.

A model `gold/alerts` that has read `gold/features` up to version 12 commits its rows together with the
transaction `reads:gold/features:<table id>` = 12. After a crash the next build starts from there: rows are
neither skipped nor consumed twice. A rebuilt upstream has another table id (or removed rows), which makes
its reader start over.

A table built anew from rows that it had been built from before says so in its commit (`RENEWED`): it has no other rows,
though they may say something else. A reader that keeps its rows goes on over such a commit: of the rows before it, it
reads those that it has not read yet as they were, and none again.

A view that the consumer reads through (a rule) and that failed, or was not built, is left out: the consumer's position
moves on, and a position of the view's own, `reads:gold/features:<table id>:<view>`, keeps where it stopped. Its next
build reads from there and sets that position to `CAUGHT_UP`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product

from deltalake import DeltaTable, Transaction

from fraud_lakehouse.lake.lake import data_files
from fraud_lakehouse.lake.past_log import RENEWED
from fraud_lakehouse.transform import definitions
from fraud_lakehouse.transform.changes import added_files
from fraud_lakehouse.transform.definitions import VersionOf
from fraud_lakehouse.transform.handles import Handles, Key
from fraud_lakehouse.transform.indexed import Indexed
from fraud_lakehouse.transform.mirrored import Mirrored
from fraud_lakehouse.transform.values import Value

CAUGHT_UP = 2**62
"""Position of a view that was left out once and has read everything since."""


@dataclass
class Read:
    """One upstream's part in a build: everything (`start_over`) or the files added since the last time.

    Rows up to `from_version` have been read before; -1: none. `has_news`: whether it has rows that were not there then,
    also where all are read again.
    """

    table: DeltaTable
    to_version: int
    files: list[str]
    start_over: bool
    from_version: int = -1
    has_news: bool = True


@dataclass
class Plan:
    """What one build of a consumer reads, and the handle it must commit on (that is the fence).

    `values`: of queries, by the names that its SQL has for them. `shown`: relations of new rows that views share, and
    their columns. `definitions`: of the features it computes. `version_of` answers for the target's transactions;
    `said` are those of the commit. `views`: positions to commit of single views, by transaction id.
    """

    consumer: Key
    target: DeltaTable | None
    incremental: bool
    keep_rows: bool
    reads: dict[Key, Read] = field(default_factory=dict)
    mirrored: list[Mirrored] = field(default_factory=list)
    indexed: Indexed | None = None
    values: dict[str, Value] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    definitions: Mapping[str, int] = field(default_factory=dict)
    version_of: VersionOf | None = None
    said: list[Transaction] = field(default_factory=list)
    asked: set[Key] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    views: dict[str, int] = field(default_factory=dict)

    @property
    def has_new_rows(self) -> bool:
        """Whether any upstream asked for has rows this consumer, or a view of it, has not seen."""
        return bool(self.views) or any(self.reads[key].files for key in self.asked)

    def transactions(self) -> list[Transaction]:
        """The positions, and what is to be said of features, to commit with the result."""
        all_rows = not self.incremental
        out = definitions.to_commit(
            self.target, self.definitions, all_rows=all_rows, table=self.consumer[1], version_of=self.version_of
        )
        if self.target is not None and all_rows and self.asked and not any(self.reads[k].has_news for k in self.asked):
            out.append(Transaction(RENEWED, self.target.version()))
        for key in self.asked:
            read = self.reads[key]
            out.append(Transaction(app_id(key), read.to_version))
            out.append(Transaction(app_id(key, read.table), read.to_version))
        out += [Transaction(name, version) for name, version in self.views.items()]
        self.said = out
        return out


def app_id(upstream: Key, table: DeltaTable | None = None, view: str | None = None) -> str:
    """Transaction id of an upstream, with the table's identity where one is given, and the view's name likewise."""
    name = f"reads:{upstream[0]}/{upstream[1]}"
    name = f"{name}:{table.metadata().id}" if table is not None else name
    return f"{name}:{view}" if view is not None else name


class Consumption:
    """Plans builds; remembers in memory how far empty builds came, which need no commit of their own."""

    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._seen: dict[tuple[str, str], int] = {}
        self._positions: dict[Key, tuple[str, int, dict[str, int | None]]] = {}

    def plan(self, consumer: Key, parents: list[Key], *, full_refresh: bool, keep_rows: bool) -> Plan:
        """Decide how `consumer` is built: from new rows, or from all of them.

        Args:
            parents: the tables it may read; those it has read through `new_rows` before decide.
            full_refresh: start over from all rows.
            keep_rows: the consumer's rows are never rebuilt (alerts): an upstream that starts over is read
                whole, the consumer itself stays.
        """
        target = self._handles.get(consumer)
        plan = Plan(consumer, target, target is not None and (keep_rows or not full_refresh), keep_rows)
        if target is not None:
            plan.version_of = partial(self._position, consumer, target)
            for parent in parents:
                if self._position(consumer, target, app_id(parent)) is None:
                    continue
                if (table := self._handles.get(parent)) is not None:
                    plan.reads[parent] = self._read(plan, parent, table)
        if not keep_rows and any(read.start_over for read in plan.reads.values()):
            plan.incremental = False
        return plan

    def ask(self, plan: Plan, upstream: Key, reader: str) -> Read | None:
        """The part of `upstream` this build reads; None where there is no such table yet.

        Args:
            reader: the consumer, or the view it reads through.
        """
        plan.readers.add(reader)
        if upstream not in plan.reads:
            table = self._handles.get(upstream)
            if table is None:
                return None
            plan.reads[upstream] = self._read(plan, upstream, table)
        read = plan.reads[upstream]
        plan.asked.add(upstream)
        if not plan.incremental and read.from_version >= 0:
            read.files, read.from_version = data_files(read.table), -1
        stopped = self._stopped_at(plan, upstream, reader) if reader != plan.consumer[1] else None
        if stopped is None:
            return read
        plan.views[app_id(upstream, read.table, reader)] = CAUGHT_UP
        return self._since(plan, read.table, stopped)

    def leave_out(self, plan: Plan, views: Iterable[str]) -> None:
        """Build without these views: their positions stay, while the consumer's move on."""
        for view, upstream in product(views, plan.asked):
            read = plan.reads[upstream]
            name = app_id(upstream, read.table, view)
            plan.views.pop(name, None)
            if read.to_version > read.from_version and self._stopped_at(plan, upstream, view) is None:
                plan.views[name] = read.from_version

    def _stopped_at(self, plan: Plan, upstream: Key, view: str) -> int | None:
        """The version that a view was left out after, if it has not caught up since."""
        if plan.target is None:
            return None
        read = plan.reads[upstream]
        position = self._position(plan.consumer, plan.target, app_id(upstream, read.table, view))
        return position if position is not None and position < read.from_version else None

    def _read(self, plan: Plan, upstream: Key, table: DeltaTable) -> Read:
        consumer, target = plan.consumer, plan.target
        position = self._position(consumer, target, app_id(upstream, table)) if target is not None else None
        if target is None or position is None:
            # a table never read before is all new; another incarnation of one that was means start over
            start_over = target is not None and self._position(consumer, target, app_id(upstream)) is not None
            return Read(table, table.version(), data_files(table), start_over)
        return self._since(plan, table, max(position, self._seen.get(self._memo(target, upstream, table), -1)))

    @staticmethod
    def _since(plan: Plan, table: DeltaTable, position: int) -> Read:
        """What came after a version; everything where rows went as well, or after none (-1)."""
        if position < 0:
            return Read(table, table.version(), data_files(table), start_over=False)
        added = added_files(table, position)
        has_news = bool(added.files) or not (added.append_only or added.renewed)
        if added.append_only or (added.renewed and plan.keep_rows):
            return Read(table, table.version(), added.files, False, position, has_news)
        return Read(table, table.version(), data_files(table), start_over=True, has_news=has_news)

    def committed(self, plan: Plan, upstream: Key) -> int | None:
        """The position in `upstream` that the consumer's table holds."""
        if plan.target is None:
            return None
        return self._position(plan.consumer, plan.target, app_id(upstream, plan.reads[upstream].table))

    def _position(self, consumer: Key, target: DeltaTable, name: str) -> int | None:
        """A position in the consumer's table; the handle looks for it in the log, each time a millisecond."""
        seen = (str(target.metadata().id), target.version())
        known = self._positions.get(consumer)
        if known is None or known[:2] != seen:
            known = self._positions[consumer] = (*seen, {})
        if name not in known[2]:
            known[2][name] = target.transaction_version(name)
        return known[2][name]

    def said(self, plan: Plan, before: int, version: int) -> None:
        """Keep what a build's commit has said: asking the log takes a millisecond for each transaction.

        Args:
            before: the target's version before the commit.
            version: that after it; only the next one is known to be the commit itself.
        """
        known = self._positions.get(plan.consumer)
        if plan.target is None or known is None or known[:2] != (str(plan.target.metadata().id), before):
            return
        if version == before + 1:
            names = known[2] | {transaction.app_id: transaction.version for transaction in plan.said}
            self._positions[plan.consumer] = (known[0], version, names)

    def remember(self, plan: Plan) -> None:
        """Keep positions of a build that had nothing to commit; lost with the process, harmlessly."""
        if plan.target is not None:
            for key in plan.asked:
                read = plan.reads[key]
                self._seen[self._memo(plan.target, key, read.table)] = read.to_version

    @staticmethod
    def _memo(target: DeltaTable, upstream: Key, table: DeltaTable) -> tuple[str, str]:
        return str(target.metadata().id), app_id(upstream, table)
