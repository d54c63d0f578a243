"""DuckDB's options and planner settings, for builds and for label queries alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings
    from fraud_lakehouse.storage.lake import Lake

PLANNING = {
    # DuckDB estimates that an incremental build evaluates 0 rows. It would then compare each row with every row of
    # its key: 300 s, where sorting both sides takes 3 s (160,000 card payments of one category).
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
        # The cache keeps 0.8 KB of each file read, forever; local files are read as fast without it.
        "enable_external_file_cache": not lake.is_local,
        **PLANNING,
    }
