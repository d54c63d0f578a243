"""Names for proposed sources, streams, topics' tables and fields: unused, and valid in models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import duckdb

from fraud_lakehouse.discovery.json_fields import words_of

STREAM_TABLES = ("", "_features", "_vectors", "_ledger")
"""Suffixes of the names of a stream and its tables."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GENERAL = re.compile(
    r"(^|_)(fraud|postgres|postgresql|pg|kafka|dsn|url|uri|bootstrap|servers?|brokers?|database|db|connection|conn)(?=_|$)"
)
_WRAPPER = re.compile(r"(_?(details?|info|data|object)|Details?|Info|Data|Object)$")
_GENERAL_DATABASES = {"postgres", "template1", "public"}
_LAKES_OWN = frozenset(
    "source op version known_at landed_at scored_at source_committed_at user_exists is_amount_excluded is_time_excluded"
    " is_deleted is_evaluated is_needed changed_at given_time weight amount_text window_start window_end watermark"
    " seconds_late reason".split()
)
"""Columns that the models of streams add."""


@lru_cache(maxsize=1)
def _reserved_words() -> frozenset[str]:
    query = "select keyword_name from duckdb_keywords() where keyword_category = 'reserved'"
    with duckdb.connect() as connection:
        return frozenset(str(word) for (word,) in connection.execute(query).fetchall())


def is_bare(column: str) -> bool:
    """Whether models can use a column of this name."""
    is_plain = bool(_NAME.fullmatch(column)) and column.isascii()
    return is_plain and column.lower() not in _reserved_words() | _LAKES_OWN


class Names:
    """Gives out unused names in lower case, and marks them as used.

    Args:
        taken: names in use.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {name.casefold() for name in taken}

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._taken

    def __iter__(self) -> Iterator[str]:
        return iter(self._taken)

    def add(self, *names: str) -> None:
        """Mark names as used."""
        self._taken |= {name.casefold() for name in names}

    def take(self, wanted: str, longest: int = 40, with_endings: Iterable[str] = ("",)) -> str:
        """A name of a-z, 0-9 and _ that begins with a letter; the wanted one if possible.

        Args:
            with_endings: suffixes with which the name must also be unused.
        """
        endings = tuple(with_endings)
        base = words_of(wanted)
        base = (base if re.match("[a-z]", base) else f"n_{base}".rstrip("_"))[:longest].rstrip("_")
        name, number = base, 2
        while any((name + ending).casefold() in self._taken for ending in endings):
            suffix = f"_{number}"
            name, number = base[: longest - len(suffix)] + suffix, number + 1
        self._taken |= {(name + ending).casefold() for ending in endings}
        return name


def source_name(variable: str, database: str = "") -> str:
    """A name for a source: from its variable, else the database's name."""
    words = _GENERAL.sub("", words_of(variable)).strip("_")
    if words:
        return words
    if database and database not in _GENERAL_DATABASES and words_of(database):
        return words_of(database)
    return "database" if database else "topics"


def field_names(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Columns for fields: the keys of their paths joined by _, unique ignoring case."""
    given: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()
    for path in sorted(paths, key=len):  # top-level fields keep their names
        short, long = (_column(keys) for keys in (_without_wrappers(path), path))
        name, number = short if short.casefold() not in taken else long, 2
        while name.casefold() in taken:
            name, number = f"{long}_{number}", number + 1
        taken.add(name.casefold())
        given[path] = name
    return given


def _without_wrappers(path: tuple[str, ...]) -> tuple[str, ...]:
    """A path without words that only mean "object": sender_details.id becomes sender.id."""
    return (*(_WRAPPER.sub("", key) or key for key in path[:-1]), path[-1])


def _column(keys: tuple[str, ...]) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", "_".join(keys)).lstrip("_")[:120]
    name = name if re.match("[A-Za-z]", name) else f"field_{name}".rstrip("_")
    return name if is_bare(name) else f"{name}_value"


def stream_name(source: str, table: str, is_only: bool) -> str:
    """A stream's name: `<source>_payments` if the source has only one, else after its table."""
    stem = re.sub(r"_?payments?$", "", words_of(table))
    return f"{source if is_only or not stem else stem}_payments"


def bronze_of(prefix: str, schema: str, table: str) -> str:
    """A captured table's name in bronze, as in `pipeline check`."""
    return prefix + (table if schema == "public" else f"{schema}__{table}")


def made_of(table: str) -> set[str]:
    """The names reserved by a stream: its bronze table's, and those of its models."""
    return {table, f"{table}_history", f"{table}_ledger", f"{table}_late"}
