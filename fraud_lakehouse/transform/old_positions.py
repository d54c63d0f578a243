"""Positions written by version 0.1, where a position was a Delta version: each is converted to a commit number.

Only the log knows what followed a version. If its entries up to the first numbered commit of rows exist, the number
before that commit is the position. If not, or if rows have no number, the reader starts over. The reader's next commit
stores the position in the current format. Remove this module once no lake of 0.1 is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.commit_numbers import COMMITS, NOTHING, newest
from fraud_lakehouse.storage.lake import table_root


def app_id(upstream: tuple[str, str], table: DeltaTable | None = None) -> str:
    """Transaction id under which 0.1 stored a position."""
    name = f"reads:{upstream[0]}/{upstream[1]}"
    return f"{name}:{table.metadata().id}" if table is not None else name


def position(version_of: Callable[[str], int | None], upstream: tuple[str, str], table: DeltaTable) -> int | None:
    """The commit number of a reader's old position; None: there is none, or it is unknown.

    Args:
        version_of: returns the transactions of the reader's table.
    """
    version = version_of(app_id(upstream, table))
    return None if version is None else number_at(table, version)


def number_at(table: DeltaTable, version: int) -> int | None:
    """Number of the newest commit of rows at a version of a table, before rows were numbered; None: unknown."""
    if version < 0:
        return NOTHING
    root = table_root(table)
    if "://" in root:
        return None
    for later in range(version + 1, table.version() + 1):
        try:
            text = durable.log_entry(Path(root), later).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        actions: list[dict[str, Any]] = [json.loads(line) for line in durable.lines_of(text)]
        if any(action.get(kind, {}).get("dataChange") for action in actions for kind in ("add", "remove")):
            numbers = [one["txn"]["version"] for one in actions if one.get("txn", {}).get("appId") == COMMITS]
            return numbers[0] - 1 if numbers else None
    return newest(table)
