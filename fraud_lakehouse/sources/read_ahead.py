"""An iterator run one item ahead in a thread, so that receiving and decoding share the time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")


@contextmanager
def read_ahead(items: Iterator[_T]) -> Generator[Iterator[_T]]:
    """The same items, of which the next is made while the caller is busy with one, the first from now on.

    The thread has ended when the context is left. What `items` raises is raised in its place.
    """
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        yield _in_turn(thread, items, thread.submit(next, items, None))


def _in_turn(thread: ThreadPoolExecutor, items: Iterator[_T], coming: Future[_T | None]) -> Iterator[_T]:
    while (item := coming.result()) is not None:
        coming = thread.submit(next, items, None)
        yield item
