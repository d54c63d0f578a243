"""A source landed to its end, batch by batch."""

from __future__ import annotations

from typing import Any


def drain(ingest: Any, *arguments: Any) -> None:
    for _ in range(200):
        if not ingest.step(*arguments):
            return
    raise AssertionError("never drained")
