"""Recognises Delta's commit conflicts: the commit was not applied and may be retried from the table's new state."""

from __future__ import annotations

import re

from deltalake.exceptions import CommitFailedError

_REFUSED = ("Concurrent transaction", "changed since last commit", "oncurrent")
_LEFT_BEHIND = re.compile(
    r"Invalid table version|Expected contiguous commit files|_delta_log/\d{20}\.\S*(json|parquet) not found"
    r"|File not found: \S*_delta_log/\d{20}\."
)
"""The handle is so old that its checkpoint, its entries or later ones are gone from the log."""
_MADE_BEFORE = "able already exists at"  # another writer created the table first


def is_conflict(error: Exception) -> bool:
    """Whether an error is a commit conflict: another writer was first and the commit was not applied.

    A log entry that disappears while the log is read may surface as an OSError of the storage.
    """
    text = str(error)
    if not isinstance(error, CommitFailedError):
        return _LEFT_BEHIND.search(text) is not None or _MADE_BEFORE in text
    return any(phrase in text for phrase in _REFUSED) or re.search(r"commit transaction: \d+$", text) is not None
