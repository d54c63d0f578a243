"""How polars and delta-rs give memory back, for processes that run for long. To be said before either is loaded.

Both bring jemalloc, which by default has four arenas a processor and keeps what was freed in each for ten seconds: of a
process that commits once a second it never gives anything back (60 MB more in 500 commits to one table; 40 MB and level
as set here, at the same processor time). Delta-rs reads files by threads, which come to a hundred and stay: none keeps
larger objects for itself (110 of them: 53 MB instead of 78).
"""

from __future__ import annotations

import os

_VARIABLE = "_RJEM_MALLOC_CONF"
_ONE_ARENA = "narenas:1,lg_tcache_max:8,dirty_decay_ms:1000,muzzy_decay_ms:0"


def give_memory_back() -> None:
    """Set it for this process and its children, unless the environment says how many arenas there are to be.

    What it says besides comes behind and wins: polars, too, puts its defaults there for each child of its process.
    """
    given = os.environ.get(_VARIABLE, "")
    if "narenas" not in given:
        os.environ[_VARIABLE] = ",".join(filter(None, (_ONE_ARENA, given)))
