"""What discovery knows about a database or cluster: names, types, keys and counts. Never values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["number", "money", "text", "time", "zoned", "flag", "other"]
"""What a column can be used as: `number` has no decimals, `money` may have; `zoned` is a time with a zone."""


@dataclass(frozen=True)
class Reference:
    """A reference: a column with the keys of another table.

    Args:
        table: schema and name of the other table.
        enforced: whether a foreign key enforces it; otherwise it is guessed from names.
        is_known: for a guess, whether all sampled values exist in the other table; None if not sampled.
    """

    table: tuple[str, str]
    column: str
    enforced: bool
    is_known: bool | None = None


@dataclass(frozen=True)
class Sample:
    """Counts of a column's values in a sample of rows.

    Args:
        rows: sampled rows.
        filled: rows with a value.
        distinct: distinct values; 0 if they were not counted.
        are_flags: whether all are 0 or 1, or of a boolean type.
    """

    rows: int = 0
    filled: int = 0
    distinct: int = 0
    are_flags: bool = False

    @property
    def is_unique(self) -> bool | None:
        """Whether every value is unique; None if the sample is too small."""
        return None if self.filled < 20 else self.distinct == self.filled

    @property
    def is_constant(self) -> bool:
        """Whether all have the same value; False if the sample is too small."""
        return self.filled >= 20 and self.distinct == 1


@dataclass(frozen=True)
class Column:
    """A column of a table, or a field of a topic.

    Args:
        name: in the lake.
        type: the source's type, for display.
        is_bare: whether SQL can name it without quotes, as models do.
    """

    name: str
    kind: Kind
    type: str
    nullable: bool = False
    unique: bool = False
    sample: Sample = field(default_factory=Sample)
    reference: Reference | None = None
    is_bare: bool = True


@dataclass(frozen=True)
class Table:
    """A table of a database.

    Args:
        key: columns of its primary key (or replica identity); empty if none.
        rows: the server's estimate; None if it has none.
        problem: why it is ineligible, with the fix; empty if it is eligible.
        order: the order in which tables get their names in the lake.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    rows: int | None = None
    problem: str = ""
    order: int = 0

    @property
    def identity(self) -> tuple[str, str]:
        """Schema and name."""
        return self.schema, self.name


@dataclass(frozen=True)
class Database:
    """A PostgreSQL database.

    Args:
        variable: the environment variable of its connection.
        name: its name on the server.
        problems: what prevents capturing any of it, each with its fix.
    """

    variable: str
    name: str
    tables: tuple[Table, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class JsonField:
    """A value that records have at a path.

    Args:
        path: keys from the outside in.
        type: as in `sources.yml`; empty if it cannot be declared.
        unit: unit of a numeric time.
        present: number of records with a value there.
        note: a remark, or why it cannot be declared.
    """

    path: tuple[str, ...]
    type: str
    unit: str = ""
    present: int = 0
    distinct: int = 0
    are_flags: bool = False
    note: str = ""


@dataclass(frozen=True)
class Topic:
    """A topic of a cluster, and a summary of sampled records.

    Args:
        format: `json`, `debezium`, `avro`, `other`, or `none` if it has no records.
        records: sampled records.
        unlike: sampled records of another format.
    """

    name: str
    partitions: int
    format: Literal["json", "debezium", "avro", "other", "none"]
    records: int = 0
    unlike: int = 0
    fields: tuple[JsonField, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """A Kafka cluster. `config_variable`: the environment variable of its properties file, empty if none."""

    variable: str
    config_variable: str
    topics: tuple[Topic, ...]
