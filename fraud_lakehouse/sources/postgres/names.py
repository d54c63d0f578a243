"""How source names become names in the lake: unlike each other for readers that do not tell upper from lower case."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_$-]{0,199}")
_OWN_PREFIX = "_lake_"
_DELTA_LOG = "_delta_log"


def bronze_name(schema: str, table: str, prefix: str = "", reserved: Collection[str] = ()) -> str:
    """The bronze table that a source table lands in: `<prefix><table>` of schema public, else with `<schema>__` first.

    A name that is no plain file name in every reader (spaces, slashes, quotes), or that is reserved, is spelt with `_`
    and told apart by a hash.

    Args:
        prefix: what the name begins with.
        reserved: lower-case names of tables that the lake makes itself, or that another source has.
    """
    name = prefix + (table if schema == "public" else f"{schema}__{table}")
    if _PLAIN_NAME.fullmatch(name) and name.lower() not in (_DELTA_LOG, *reserved):
        return name
    return _told_apart(re.sub(r"[^A-Za-z0-9_]", "_", name), name)


def bronze_names(
    tables: Iterable[tuple[str, str]],
    known: Mapping[tuple[str, str], str] | None = None,
    prefix: str = "",
    reserved: Collection[str] = (),
) -> list[str]:
    """The bronze names of (schema, table), the oldest table first.

    Of names that differ in nothing but case (`Users`, `users`), or in nothing (`public.a__b`, `a.b`), the oldest
    table's stays; Delta readers and file systems may take the others for the same.

    Args:
        known: names of tables that the lake has, dropped ones too: they stay, whatever tables come and go.
        prefix, reserved: of new names, as for `bronze_name`.
    """
    known = known or {}
    taken = {name.lower() for name in known.values()}
    names = []
    for schema, table in tables:
        name = known.get((schema, table), "")
        if not name:
            name = bronze_name(schema, table, prefix, reserved)
            while name.lower() in taken:
                name = _told_apart(name, f"{schema}.{table} {name}")
            taken.add(name.lower())
        names.append(name)
    return names


def column_names(names: Sequence[str], reserved: Iterable[str] = ()) -> list[str]:
    """The lake's names of a table's columns, in the table's order; Delta does not tell `Id` from `id`.

    Args:
        reserved: lower-case names that the lake uses itself; so are all that begin with `_lake_`.
    """
    taken = set(reserved)
    result = []
    for name in names:
        own = name
        while own.lower() in taken or own.lower().startswith(_OWN_PREFIX):
            own = _told_apart(f"source{own}" if own.startswith("_") else own, name)
        taken.add(own.lower())
        result.append(own)
    return result


def is_text(name: str) -> bool:
    """Whether a name as the catalog gives it is UTF-8."""
    return name.isascii() or name == shown(name)


def shown(name: str) -> str:
    """A name, with a backslash, x and two digits for each byte that is not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _told_apart(name: str, whole: str) -> str:
    return f"{name}_{hashlib.sha256(whole.encode()).hexdigest()[:6]}"
