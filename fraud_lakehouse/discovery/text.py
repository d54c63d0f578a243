"""Entries of the pipeline's files as text, each line with its comment. Alternatives are commented out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fraud_lakehouse.sql_text import quoted

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\([0-9, ]+\))?")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # some YAML readers take these for values
_PLAIN_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


@dataclass(frozen=True)
class Entry:
    """An entry of a file: a source or a stream.

    Args:
        lines: without line ends.
        is_proposed: if not, the whole entry is a comment.
    """

    name: str
    lines: tuple[str, ...]
    is_proposed: bool = True

    def __str__(self) -> str:
        lines = self.lines if self.is_proposed else commented(self.lines)
        return "\n".join(lines) + "\n"


def commented(lines: Iterable[str]) -> list[str]:
    """Lines as comments; removing `# ` makes them valid."""
    return [f"# {line}" for line in lines]


def line(text: str, why: str = "", depth: int = 0) -> str:
    """A line with its comment."""
    return "  " * depth + text + (f" # {plain(why)}" if why else "")


def choice(text: str, why: str, depth: int) -> str:
    """An alternative, commented out."""
    return "  " * depth + f"# {text}" + (f" # {plain(why)}" if why else "")


def plain(text: str) -> str:
    """A text on one line, whatever names are in it."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def scalar(text: str) -> str:
    """A printable text as a YAML scalar."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and "," not in text:
        return text
    return json.dumps(text, ensure_ascii=False)


def flow(values: Mapping[str, object]) -> str:
    """A mapping of texts, `True` and further mappings on one line."""
    return "{" + ", ".join(f"{scalar(key)}: {_value(value)}" for key, value in values.items()) + "}"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return flow(value)
    return "true" if value is True else scalar(str(value))


def listed_table(schema: str, table: str) -> str:
    """`[schema.]table` as `tables` of a source lists it."""
    parts = [table] if schema == "public" else [schema, table]
    return scalar(".".join(part if _PLAIN_TABLE.fullmatch(part) else quoted(part) for part in parts))


def rows(count: int | None) -> str:
    """A server's estimate of rows, for display."""
    return "" if count is None else f"about {counted(count, 'row')}"


def counted(number: int, what: str) -> str:
    """A number and its noun, pluralised."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
