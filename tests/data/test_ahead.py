"""Reading ahead: the same items in the same order, errors where they belong, and no thread left behind."""

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from mclstexp.data.ahead import ahead


def test_the_order_is_kept_and_errors_come_at_their_place() -> None:
    with ahead(iter(range(100)), depth=1) as items:
        assert list(items) == list(range(100))

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("page 2")

    with ahead(broken()) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="page 2"):
            next(items)


def test_it_reads_ahead_but_not_far_and_ends_with_the_block() -> None:
    made: list[int] = []
    third = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            if number == 3:
                third.set()
            yield number

    with suppress(KeyboardInterrupt), ahead(numbers(), depth=2) as items:
        assert next(items) == 0
        assert third.wait(10), "the next ones are made while the caller works"
        raise KeyboardInterrupt
    assert len(made) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name == "mclstexp-ahead"]
