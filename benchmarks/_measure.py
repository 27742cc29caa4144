"""What the benchmarks of time and memory share."""

from __future__ import annotations

import resource
import time


class Clock:
    """Wall time of a block."""

    def __enter__(self) -> Clock:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.start


def peak_mb() -> float:
    """Return the most memory that this process has held, memory-mapped pages included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
