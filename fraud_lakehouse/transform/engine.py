"""How DuckDB is opened over a lake, and how it plans queries, in builds and in queries of labels alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings
    from fraud_lakehouse.storage.lake import Lake

PLANNING = {
    # Its estimate of how many rows of an incremental build are evaluated is 0: it would compare each with every
    # row of its key, in 300 s where sorting both sides takes 3 s (160,000 card payments of one category).
    "asof_loop_join_threshold": 0,
}
"""Options of a connection."""

SESSION = {"TimeZone": "UTC"}
"""Settings of a session."""


def options(settings: Settings, lake: Lake) -> dict[str, str | bool | int | float | list[str]]:
    """Options of a connection that builds models."""
    return {
        "memory_limit": settings.duckdb_memory,
        "temp_directory": str((settings.work_dir / "spill").resolve()),
        # It would keep 0.8 KB of each file read, for good; local ones are read as fast without it.
        "enable_external_file_cache": not lake.is_local,
        **PLANNING,
    }
