"""How far a model has read each upstream table: a position kept in the model's own Delta commits.

A position is a commit number (storage/commit_numbers.py). A model `gold/alerts` that has read `gold/features` up to 12
commits its rows together with the transaction `rows:gold/features:<table id>` = 12. After a crash the next build
continues from there: no row is skipped or read twice, however far the model is behind. A rebuilt upstream has another
table id, or a rewrite after the position; its readers then start over.

If the upstream's newest rewrite only recomputed the same rows, readers lack no row, though values may differ. A reader
that keeps its rows continues after such a rewrite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from deltalake import DeltaTable, Transaction

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.storage import commit_numbers
from fraud_lakehouse.storage.commit_numbers import NOTHING, Commits, commits_of, rows_since
from fraud_lakehouse.transform import definitions, old_positions
from fraud_lakehouse.transform.definitions import VersionOf
from fraud_lakehouse.transform.indexed import Indexed
from fraud_lakehouse.transform.table_cache import Key, TableCache

if TYPE_CHECKING:
    from fraud_lakehouse.transform.fired import Fired
    from fraud_lakehouse.transform.scored import Scored


@dataclass
class Read:
    """What a build reads of one upstream: the rows of the commits `after` < number <= `until`.

    `after` is -1 if all rows are read. `has_news`: whether there are rows that no earlier build read, even when all
    are read again. `commits` are the table's numbers at the time of the plan.
    """

    table: DeltaTable
    rows: commit_numbers.Rows
    commits: Commits
    start_over: bool = False
    has_news: bool = True

    @property
    def after(self) -> int:
        """Number of the newest commit that was already read; -1: none."""
        return self.rows.after

    @property
    def until(self) -> int:
        """Number of the newest commit whose rows are read."""
        return self.rows.until

    @property
    def has_rows(self) -> bool:
        """Whether there is a row to read."""
        return self.until > self.after and bool(self.rows.files)

    def check_not_rewritten(self, upstream: Key) -> None:
        """Check that rows already read have not been rewritten since the plan was made.

        Raises:
            ConcurrentWriterError: they were rewritten; nothing was committed.
        """
        if commits_of(self.table).rewritten != self.commits.rewritten:
            raise ConcurrentWriterError(
                f"{upstream[0]}/{upstream[1]} was rewritten during the build of a model that reads it",
                "nothing is lost: the next build reads it from the start",
            )

    def between(self, after: int, until: int) -> Read:
        """The same upstream with another range of commits."""
        return Read(self.table, rows_since(self.table, after, until), self.commits, self.start_over, self.has_news)


@dataclass
class Plan:
    """What one build of a consumer reads, and the table object it must commit on, which fences out other writers.

    `values`: of queries, by their names in the SQL. `definitions`: fingerprints of the features it computes.
    `version_of` returns the target's transactions; `recorded` are those of the commit. `numbered`: whether its rows
    get commit numbers.
    """

    consumer: Key
    target: DeltaTable | None
    incremental: bool
    keep_rows: bool
    numbered: bool = True
    reads: dict[Key, Read] = field(default_factory=dict)
    indexed: Indexed | None = None
    scored: Scored | None = None
    fired: list[Fired] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    definitions: Mapping[str, int] = field(default_factory=dict)
    version_of: VersionOf | None = None
    recorded: list[Transaction] = field(default_factory=list)
    requested: set[Key] = field(default_factory=set)

    @property
    def has_new_rows(self) -> bool:
        """Whether an upstream has rows that this consumer has not read."""
        return any(self.reads[key].has_rows for key in self.requested)

    @property
    def has_registered(self) -> bool:
        """Whether its SQL reads relations that only the build's cursor knows."""
        return self.indexed is not None or self.scored is not None or bool(self.fired)

    @property
    def before(self) -> Commits:
        """The target's commit numbers before the commit."""
        return Commits() if self.target is None else commits_of(self.target)

    def after(self, *, rewrites: bool) -> Commits:
        """The target's commit numbers after the commit.

        Args:
            rewrites: whether the commit changes or removes rows.
        """
        if not rewrites and self.numbered:
            return self.before.after_append()
        all_rows = not self.incremental and bool(self.requested)
        same = all_rows and self.target is not None and not any(self.reads[key].has_news for key in self.requested)
        return self.before.after_rewrite(same_rows=same)

    def transactions(self, commits: Commits | None = None) -> list[Transaction]:
        """The positions, commit numbers and feature definitions to commit with the result.

        Args:
            commits: the target's numbers after the commit; None: it has no rows.
        """
        all_rows = not self.incremental
        out = definitions.to_commit(
            self.target, self.definitions, all_rows=all_rows, table=self.consumer[1], version_of=self.version_of
        )
        if commits is not None:
            out += commits.transactions(self.before)
        for key in self.requested:
            read = self.reads[key]
            out.append(Transaction(app_id(key), read.until))
            out.append(Transaction(app_id(key, read.table), read.until))
        self.recorded = out
        return out


def app_id(upstream: Key, table: DeltaTable | None = None) -> str:
    """Transaction id of an upstream, with the table's identity if a table is given."""
    name = f"rows:{upstream[0]}/{upstream[1]}"
    return f"{name}:{table.metadata().id}" if table is not None else name


class Consumption:
    """Plans builds. Builds without a result need no commit; their positions are kept in memory."""

    def __init__(self, table_cache: TableCache) -> None:
        self._table_cache = table_cache
        self._seen: dict[tuple[str, str], int] = {}
        self._positions: dict[Key, tuple[str, int, dict[str, int | None]]] = {}

    def plan(self, consumer: Key, parents: list[Key], *, full_refresh: bool, keep_rows: bool) -> Plan:
        """Decide how `consumer` is built: from new rows, or from all of them.

        Args:
            parents: the tables it may read; those it has already read through `new_rows` decide.
            full_refresh: start over from all rows.
            keep_rows: the consumer's rows are never rebuilt (alerts): a rebuilt upstream is read as a whole, the
                consumer's rows stay.
        """
        target = self._table_cache.get(consumer)
        plan = Plan(consumer, target, target is not None and (keep_rows or not full_refresh), keep_rows)
        if target is not None:
            plan.version_of = partial(self._position, consumer, target)
            for parent in parents:
                if not self._has_read(plan, parent):
                    continue
                if (table := self._table_cache.get(parent)) is not None:
                    plan.reads[parent] = self._read(plan, parent, table)
        if not keep_rows and any(read.start_over for read in plan.reads.values()):
            plan.incremental = False
        return plan

    def request(self, plan: Plan, upstream: Key) -> Read | None:
        """The part of `upstream` that this build reads; None if the table does not exist yet."""
        if upstream not in plan.reads:
            table = self._table_cache.get(upstream)
            if table is None:
                return None
            plan.reads[upstream] = self._read(plan, upstream, table)
        read = plan.reads[upstream]
        plan.requested.add(upstream)
        if not plan.incremental and read.after >= 0:
            read = plan.reads[upstream] = read.between(NOTHING, read.until)
        return read

    def _has_read(self, plan: Plan, upstream: Key) -> bool:
        """Whether the consumer has read a table of this name."""
        assert plan.version_of is not None
        names = app_id(upstream), old_positions.app_id(upstream)
        return any(plan.version_of(name) is not None for name in names)

    def _reached(self, plan: Plan, upstream: Key, table: DeltaTable) -> int | None:
        """The consumer's stored position in an upstream table."""
        assert plan.version_of is not None
        position = plan.version_of(app_id(upstream, table))
        return old_positions.position(plan.version_of, upstream, table) if position is None else position

    def _read(self, plan: Plan, upstream: Key, table: DeltaTable) -> Read:
        position = self._reached(plan, upstream, table) if plan.target is not None else None
        if plan.target is None or position is None:
            # a table never read before is all new; a new table of the same name means start over
            start_over = plan.target is not None and self._has_read(plan, upstream)
            return Read(table, rows_since(table, NOTHING), commits_of(table), start_over)
        return self._since(
            plan, table, max(position, self._seen.get(self._memo(plan.target, upstream, table), NOTHING))
        )

    @staticmethod
    def _since(plan: Plan, table: DeltaTable, position: int) -> Read:
        """The rows after a position; all rows if the position is -1 or rows before it were rewritten."""
        commits = commits_of(table)
        renewed = commits.position_of(position, keeps_rows=True)
        has_news = renewed is None or commits.newest > renewed
        start = commits.position_of(position, keeps_rows=plan.keep_rows)
        if start is None:
            return Read(table, rows_since(table, NOTHING), commits, True, has_news)
        return Read(table, rows_since(table, start), commits, False, has_news)

    def is_recorded(self, plan: Plan, upstream: Key) -> bool:
        """Whether the consumer's table stores a position in `upstream` in the current format."""
        name = app_id(upstream, plan.reads[upstream].table)
        return plan.version_of is not None and plan.version_of(name) is not None

    def committed(self, plan: Plan, upstream: Key) -> int | None:
        """The position in `upstream` that the consumer's table stores."""
        return None if plan.target is None else self._reached(plan, upstream, plan.reads[upstream].table)

    def _position(self, consumer: Key, target: DeltaTable, name: str) -> int | None:
        """A position in the consumer's table. Reading it from the log takes a millisecond."""
        seen = (str(target.metadata().id), target.version())
        known = self._positions.get(consumer)
        if known is None or known[:2] != seen:
            known = self._positions[consumer] = (*seen, {})
        if name not in known[2]:
            known[2][name] = target.transaction_version(name)
        return known[2][name]

    def record(self, plan: Plan, before: int, version: int) -> None:
        """Cache what a build committed: reading the log takes a millisecond for each transaction.

        Args:
            before: the target's version before the commit.
            version: the version after it; only the next one is known to be the commit itself.
        """
        known = self._positions.get(plan.consumer)
        if plan.target is None or known is None or known[:2] != (str(plan.target.metadata().id), before):
            return
        if version == before + 1:
            names = known[2] | {transaction.app_id: transaction.version for transaction in plan.recorded}
            self._positions[plan.consumer] = (known[0], version, names)

    def remember(self, plan: Plan) -> None:
        """Keep the positions of a build that had nothing to commit. Losing them with the process is harmless."""
        if plan.target is not None:
            for key in plan.requested:
                read = plan.reads[key]
                self._seen[self._memo(plan.target, key, read.table)] = read.until

    @staticmethod
    def _memo(target: DeltaTable, upstream: Key, table: DeltaTable) -> tuple[str, str]:
        return str(target.metadata().id), app_id(upstream, table)
