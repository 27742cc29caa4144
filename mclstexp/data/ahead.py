"""Reading ahead: a thread makes the next items while the caller works on the last."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Items that wait at most: more would only take memory."""

_END = object()


@contextmanager
def ahead(items: Iterable[T], *, depth: int = DEPTH) -> Iterator[Iterator[T]]:
    """Give the items in their order, made by a thread of their own, at most ``depth`` waiting.

    Pillow and the TIFF decoders let other threads run while they work. What the thread raises is raised here, at its
    place in the order. When the block ends early, the thread ends with the item that it is at, and the block with it.

    Examples
    --------
    >>> with ahead(range(3)) as numbers:
    ...     list(numbers)
    [0, 1, 2]
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not put((item,)):
                    return
        except BaseException as raised:  # noqa: BLE001  it is raised again, in the caller's thread
            error = raised
        put((_END, error))

    def receive() -> Iterator[T]:
        while True:
            item = waiting.get()
            if item[0] is _END:
                if item[1] is not None:
                    raise item[1]
                return
            yield item[0]

    thread = threading.Thread(target=produce, name="mclstexp-ahead", daemon=True)
    thread.start()
    try:
        yield receive()
    finally:
        stop.set()
        thread.join()
