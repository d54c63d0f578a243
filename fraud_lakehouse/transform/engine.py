"""How DuckDB plans the project's queries, in builds and in queries of features as of labels alike."""

from __future__ import annotations

PLANNING = {
    # Its estimate of how many rows of an incremental build are evaluated is 0: it would compare each with every
    # row of its key, in 300 s where sorting both sides takes 3 s (160,000 card payments of one category).
    "asof_loop_join_threshold": 0,
}
"""Options of a connection."""
