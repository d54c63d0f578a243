"""Names and texts in SQL syntax that PostgreSQL and DuckDB share."""

from __future__ import annotations

import re

_QUOTED = r'"(?:[^"]|"")+"'
_TABLE = re.compile(rf'(?:({_QUOTED}|[^",.][^,.]*)\.)?({_QUOTED}|[^",.][^,]*)')
_LISTED = re.compile(rf"\s*({_TABLE.pattern})?\s*(?:,|$)")


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"


def listed_tables(text: str) -> tuple[str, ...]:
    """The items of a comma list of `[schema.]table`, as written. A comma within double quotes belongs to the name.

    Raises:
        ValueError: names the text from which on it is not such a list.
    """
    items, at = [], 0
    while at < len(text):
        found = _LISTED.match(text, at)
        if found is None:
            raise ValueError(
                f"{text[at:].strip()!r} does not begin with [schema.]table; put a name that has a comma or begins with"
                ' a quote into double quotes as in SQL, such as "a,b"."c""d"'
            )
        items.append((found[1] or "").strip())
        at = found.end()
    return tuple(item for item in items if item)


def qualified(table: str) -> tuple[str, str]:
    """Schema (public if there is none) and name of `[schema.]table`, each plain or in double quotes.

    An unquoted name keeps its case. The schema ends at the first dot.

    Raises:
        ValueError: it is not of that form.
    """
    found = _TABLE.fullmatch(table)
    if found is None:
        raise ValueError(f"{table!r} is not [schema.]table, each plain or in double quotes as in SQL")
    return _unquoted(found[1] or "public"), _unquoted(found[2])


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
