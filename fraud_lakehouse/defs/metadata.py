"""What a materialization shows in Dagster: counts, positions, versions and a small preview.

Dagster's event log keeps previews longer than the lake keeps the rows, and everyone who may open the UI sees them. So
personal columns are masked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import yaml

from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.storage.audit import RENAMED
from fraud_lakehouse.storage.lake import scan
from fraud_lakehouse.transform.project import shipped_project

if TYPE_CHECKING:
    from fraud_lakehouse.ingest import Ingested
    from fraud_lakehouse.storage.lake import Lake

PREVIEW_ROWS = 5
CELL_WIDTH = 60


def markdown_table(frame: pl.DataFrame) -> str:
    """A frame as a markdown table: personal columns masked, long cells cut, bytes as their length."""
    if not frame.columns:
        return "*no columns*"
    header = f"| {' | '.join(frame.columns)} |\n|{'---|' * len(frame.columns)}"
    rows = (
        "| " + " | ".join(_cell(name, value) for name, value in zip(frame.columns, row, strict=True)) + " |"
        for row in frame.iter_rows()
    )
    return "\n".join([header, *rows])


def table_metadata(lake: Lake, layer: str, table: str) -> dict[str, Any]:
    """Rows, version, files and a preview of a Delta table as it is now; empty if there is no such table.

    The row count comes from file statistics, so its cost does not depend on the table's size.
    """
    if not lake.exists(layer, table):
        return {}
    handle = lake.open(layer, table)
    files = pl.DataFrame(handle.get_add_actions(flatten=True))
    preview = scan(handle).head(PREVIEW_ROWS).collect()
    return {
        "dagster/row_count": int(files["num_records"].sum()) if files.height else 0,
        "dagster/uri": lake.uri(layer, table),
        "version": handle.version(),
        "files": files.height,
        "bytes": int(files["size_bytes"].sum()) if files.height else 0,
        "preview": dg.MetadataValue.md(markdown_table(preview)),
    }


def ingested_metadata(ingested: Sequence[Ingested]) -> dict[str, Any]:
    """What micro-batches added to one bronze table: rows, range of positions, newest commit, seconds."""
    if not ingested:
        return {"rows": 0}
    newest = max((batch.newest_committed_at for batch in ingested if batch.newest_committed_at), default=None)
    found: Mapping[str, Any] = {
        "rows": sum(batch.rows for batch in ingested),
        "batches": len(ingested),
        "from_position": str(ingested[0].from_position),
        "to_position": str(ingested[-1].to_position),
        "seconds": round(sum(batch.seconds for batch in ingested), 3),
        "newest_committed_at": newest and dg.MetadataValue.timestamp(newest),
    }
    return {name: value for name, value in found.items() if value is not None}


def check_result(evaluation: dg.AssetCheckEvaluation) -> dg.AssetCheckResult:
    """The check result of an evaluation, which the live run logs as it is."""
    return dg.AssetCheckResult(passed=evaluation.passed, severity=evaluation.severity, metadata=evaluation.metadata)


Assessed = tuple[bool, dg.AssetCheckSeverity, dict[str, Any]]
"""Whether a check passed, its severity if not, and its evidence."""


def evaluated(asset: dg.AssetKey, check: str, assess: Callable[[], Assessed]) -> dg.AssetCheckEvaluation:
    """A source's non-blocking check, evaluated; a warning if the source cannot be reached."""
    try:
        passed, severity, metadata = assess()
    except LakehouseError as error:
        passed, severity = False, dg.AssetCheckSeverity.WARN
        metadata = {"problem": error.problem, "what to do": error.fix}
    return dg.AssetCheckEvaluation(
        asset_key=asset, check_name=check, passed=passed, severity=severity, metadata=metadata, blocking=False
    )


def known_by_source(cursor: str | None) -> dict[str, Any]:
    """A sensor's cursor, by source. Cursors of version 0.1 have old names, or belong to the only database."""
    held = json.loads(cursor) if cursor else {}
    if isinstance(held.get("number"), int):
        return {"bank": held}
    return {RENAMED.get(name, name): state for name, state in held.items()}


@lru_cache(maxsize=1)
def _personal_columns() -> frozenset[str]:
    """Columns about people: the dbt project's var of this name."""
    content = yaml.safe_load((shipped_project() / "dbt_project.yml").read_text())
    return frozenset(content["vars"]["personal_columns"])


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in _personal_columns():
        return "•••"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…"
