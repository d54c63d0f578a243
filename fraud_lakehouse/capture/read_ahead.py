"""An iterator run one item ahead in a thread, so that receiving and decoding share the time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def read_ahead(items: Iterator[_T]) -> Generator[_T]:
    """The same items, of which the next is made while the caller is busy with one.

    The thread has ended when this iterator has, or was closed; what `items` raises is raised here, in its place.
    """
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
