"""Tasks that tests give to a cluster; its workers import this module, too."""

import os
import signal
from pathlib import Path
from typing import Any

from mclstexp.errors import InputError
from mclstexp.index.cluster.worker import EncodeSlide
from mclstexp.notes import warn


class Doubling:
    """Doubles a number, once a worker was told by what; some numbers are special."""

    def __init__(self, by: int, marker: str) -> None:
        self._by, self._marker = by, Path(marker)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        number, kind = item["number"], item.get("kind")
        if kind == "poison" or (kind == "once" and not self._marker.exists()):
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "bad":
            raise InputError(f"{number} is bad; give another.")
        if kind == "bug":
            raise ZeroDivisionError("a bug")
        if kind == "doubtful":
            warn(f"{number} is doubtful")
        return {"number": self._by * number, "pid": os.getpid()}


class KilledOnce(EncodeSlide):
    """Is killed after a slide's rows were written and before the driver knows, once, where a file asks for it."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        answer = super().__call__(item)
        marker = Path(f"{self._place.root}.kill-{item['slide_id']}")
        if marker.exists():
            marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
