"""The asset key of a table of the lake: layer and table, in characters that Dagster permits."""

from __future__ import annotations

import hashlib
import re

import dagster as dg

_VALID = re.compile("[A-Za-z0-9_]+")


def table_key(layer: str, table: str) -> dg.AssetKey:
    """The asset key of a table.

    Dagster names a step's outputs after its keys, in letters, digits and `_`, and does not distinguish `a-b` from
    `a_b`. Any other name is written with `_` and made unique by a hash (`order-items` is `order_items_89455f`).
    """
    if not _VALID.fullmatch(table):
        table = f"{re.sub(r'[^A-Za-z0-9_]', '_', table)}_{hashlib.sha256(table.encode()).hexdigest()[:6]}"
    return dg.AssetKey([layer, table])
