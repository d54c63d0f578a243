"""The asset key of a table of the lake: layer and table, spelt with what Dagster's names may have."""

from __future__ import annotations

import hashlib
import re

import dagster as dg

_VALID = re.compile("[A-Za-z0-9_]+")


def table_key(layer: str, table: str) -> dg.AssetKey:
    """The asset key of a table.

    Dagster names a step's outputs after its keys, in letters, digits and `_`, and takes `a-b` and `a_b` for one: any
    other name is spelt with `_` and told apart by a hash (`order-items` is `order_items_89455f`).
    """
    if not _VALID.fullmatch(table):
        table = f"{re.sub(r'[^A-Za-z0-9_]', '_', table)}_{hashlib.sha256(table.encode()).hexdigest()[:6]}"
    return dg.AssetKey([layer, table])
