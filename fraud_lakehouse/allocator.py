"""How polars and delta-rs give memory back, for processes that run for long. To be said before either is loaded.

Both bring jemalloc, which by default has four arenas a processor and keeps what was freed in each for ten seconds: of a
process that commits once a second it never gives anything back (60 MB more in 500 commits to one table; 40 MB and level
as set here, at the same processor time).
"""

from __future__ import annotations

import os

_VARIABLE = "_RJEM_MALLOC_CONF"
_ONE_ARENA = "narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0"


def give_memory_back() -> None:
    """Set it for this process and its children, unless the environment says something else already."""
    os.environ.setdefault(_VARIABLE, _ONE_ARENA)
