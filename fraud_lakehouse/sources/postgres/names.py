"""How source names become names in the lake, which stay distinct for case-insensitive readers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_$-]{0,199}")
_OWN_PREFIX = "_lake_"
_DELTA_LOG = "_delta_log"


def bronze_name(schema: str, table: str, prefix: str = "", reserved: Collection[str] = ()) -> str:
    """The bronze table of a source table: `<prefix><table>` for schema public, else `<prefix><schema>__<table>`.

    In a name that is reserved, or is not a plain file name for every reader (spaces, slashes, quotes), such characters
    become `_` and a hash is appended.

    Args:
        prefix: prefix of the name.
        reserved: lower-case names of the lake's own tables and of other sources' tables.
    """
    name = prefix + (table if schema == "public" else f"{schema}__{table}")
    if _PLAIN_NAME.fullmatch(name) and name.lower() not in (_DELTA_LOG, *reserved):
        return name
    return _distinguished(re.sub(r"[^A-Za-z0-9_]", "_", name), name)


def bronze_names(
    tables: Iterable[tuple[str, str]],
    known: Mapping[tuple[str, str], str] | None = None,
    prefix: str = "",
    reserved: Collection[str] = (),
) -> list[str]:
    """The bronze names of (schema, table), given the oldest table first.

    If names are equal (`public.a__b`, `a.b`) or differ only in case (`Users`, `users`), only the oldest table keeps
    its name: Delta readers and file systems may be case-insensitive.

    Args:
        known: existing names, also of dropped tables; they never change.
        prefix, reserved: for new names, as in `bronze_name`.
    """
    known = known or {}
    taken = {name.lower() for name in known.values()}
    names = []
    for schema, table in tables:
        name = known.get((schema, table), "")
        if not name:
            name = bronze_name(schema, table, prefix, reserved)
            while name.lower() in taken:
                name = _distinguished(name, f"{schema}.{table} {name}")
            taken.add(name.lower())
        names.append(name)
    return names


def column_names(names: Sequence[str], reserved: Iterable[str] = ()) -> list[str]:
    """The lake's names of a table's columns, in order; Delta column names are case-insensitive.

    Args:
        reserved: lower-case names that the lake uses; so are all that begin with `_lake_`.
    """
    taken = set(reserved)
    result = []
    for name in names:
        own = name
        while own.lower() in taken or own.lower().startswith(_OWN_PREFIX):
            own = _distinguished(f"source{own}" if own.startswith("_") else own, name)
        taken.add(own.lower())
        result.append(own)
    return result


def is_text(name: str) -> bool:
    """Whether a name from the catalog is valid UTF-8."""
    return name.isascii() or name == shown(name)


def shown(name: str) -> str:
    r"""A name, with `\xNN` for each byte that is not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _distinguished(name: str, whole: str) -> str:
    return f"{name}_{hashlib.sha256(whole.encode()).hexdigest()[:6]}"
