"""How Delta says that another writer was first: the commit is not in the table, and may be tried from its new state."""

from __future__ import annotations

import re

from deltalake.exceptions import CommitFailedError

_REFUSED = ("Concurrent transaction", "changed since last commit", "oncurrent")
_LEFT_BEHIND = re.compile(
    r"Invalid table version|Expected contiguous commit files|_delta_log/\d{20}\.\S*(json|parquet) not found"
    r"|File not found: \S*_delta_log/\d{20}\."
)
"""A handle so old that the log no longer has its checkpoint, its entries or those after them."""
_MADE_BEFORE = "able already exists at"  # the table, when it was to be made


def is_refused(error: Exception) -> bool:
    """Whether Delta refused a commit for another writer's sake: nothing of it is in the table.

    A log entry that went away while the log was read may come as an OSError of the storage.
    """
    text = str(error)
    if not isinstance(error, CommitFailedError):
        return _LEFT_BEHIND.search(text) is not None or _MADE_BEFORE in text
    return any(phrase in text for phrase in _REFUSED) or re.search(r"commit transaction: \d+$", text) is not None
