"""How Delta says that another writer was first: the commit is not in the table, and may be tried from its new state."""

from __future__ import annotations

import re

from deltalake.exceptions import CommitFailedError, DeltaError

_REFUSED = ("Concurrent transaction", "changed since last commit", "oncurrent")
_LEFT_BEHIND = ("Invalid table version", "Expected contiguous commit files")
"""A handle so old that the log no longer has the entries after it, or not all of them."""
_MADE_BEFORE = "already exists at that location"  # the table, when it was to be made


def is_refused(error: DeltaError) -> bool:
    """Whether Delta refused a commit for another writer's sake: nothing of it is in the table."""
    text = str(error)
    if not isinstance(error, CommitFailedError):
        return any(phrase in text for phrase in (*_LEFT_BEHIND, _MADE_BEFORE))
    return any(phrase in text for phrase in _REFUSED) or re.search(r"commit transaction: \d+$", text) is not None
