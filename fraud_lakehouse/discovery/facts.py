"""What discovery knows of a database and of a cluster: names, types, keys and counts. Never a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["number", "money", "text", "time", "zoned", "flag", "other"]
"""What a column can be used as: `number` has no decimals, `money` may have; `zoned` is a time with its zone."""


@dataclass(frozen=True)
class Reference:
    """A column that has keys of another table.

    Args:
        table: schema and name of the other table.
        enforced: whether a foreign key sees to it; otherwise it is taken from the names.
        is_known: of one taken from names, whether all sampled values were there; None: not sampled.
    """

    table: tuple[str, str]
    column: str
    enforced: bool
    is_known: bool | None = None


@dataclass(frozen=True)
class Sample:
    """Counts of a column's values in a sample of rows.

    Args:
        rows: how many rows were sampled.
        filled: how many of them have a value.
        distinct: how many values they have; 0 where they were not compared.
        are_flags: whether all are 0 or 1, or of a boolean type.
    """

    rows: int = 0
    filled: int = 0
    distinct: int = 0
    are_flags: bool = False

    @property
    def is_unique(self) -> bool | None:
        """Whether no value is there twice; None where the sample is too small to say."""
        return None if self.filled < 20 else self.distinct == self.filled

    @property
    def is_constant(self) -> bool:
        """Whether all have the same value; not where the sample is too small to say."""
        return self.filled >= 20 and self.distinct == 1


@dataclass(frozen=True)
class Column:
    """A column of a table, or a field of a topic.

    Args:
        name: in the lake.
        type: for people, as the source has it.
        is_bare: whether models can name it: SQL needs no quotes for it.
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
        key: columns of its primary key (or replica identity); empty: none.
        rows: the server's estimate; None where it has none.
        problem: why it cannot be captured, with the remedy; empty: it can.
        order: tables are named in the lake in this order.
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
        name: what the server calls it.
        problems: what keeps all of it from being captured, each with its remedy.
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
        type: of `sources.yml`; empty where it cannot be declared.
        unit: of a time that is a number.
        present: records that have a value there.
        note: what else is to be known about it, or why it cannot be declared.
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
    """A topic of a cluster, and what a sample of its records is like.

    Args:
        format: `json`; `debezium`, `avro`, `other`; `none`: it has no records.
        records: how many were sampled.
        unlike: how many of them are of another format.
    """

    name: str
    partitions: int
    format: Literal["json", "debezium", "avro", "other", "none"]
    records: int = 0
    unlike: int = 0
    fields: tuple[JsonField, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """A Kafka cluster. `config_variable` names the variable of its properties file; empty: none."""

    variable: str
    config_variable: str
    topics: tuple[Topic, ...]
