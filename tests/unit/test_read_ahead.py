from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from fraud_lakehouse.sources.read_ahead import read_ahead


def test_items_come_in_order_from_another_thread_one_ahead() -> None:
    made: list[int] = []
    threads: set[int] = set()
    first_made, second_made = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            threads.add(threading.get_ident())
            made.append(number)
            if number < 2:
                (first_made, second_made)[number].set()
            yield number

    with read_ahead(items()) as reader:
        assert first_made.wait(10), "the first item is made before it is asked for"
        assert next(reader) == 0
        assert second_made.wait(10), "the next item is made while this one is used"
        assert made == [0, 1]
        assert list(reader) == [1, 2, 3, 4]
    assert threads and threading.get_ident() not in threads


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("cut")

    with read_ahead(items()) as reader:
        assert next(reader) == 1
        with pytest.raises(OSError, match="cut"):
            next(reader)


def test_a_reader_that_stops_ends_the_thread() -> None:
    before = set(threading.enumerate())
    with read_ahead(iter(range(1, 100))) as reader:
        assert next(reader) == 1
    assert set(threading.enumerate()) <= before
