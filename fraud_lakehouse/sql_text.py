"""Names and texts as SQL spells them, the same in PostgreSQL and DuckDB."""

from __future__ import annotations


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"
