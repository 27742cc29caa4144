"""Operations in children of a process that has started no thread, and how each of them ended."""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any

from forked import child

from mclstexp.errors import ExistsAlreadyError, InputError, LockedError, MclstexpError


def together(bodies: list[Callable[[], dict[str, Any]]], seconds: float) -> list[dict[str, Any]]:
    """Run each body in a child of its own, all at once; return how each ended. One that takes longer hangs."""
    running = [child(body) for body in bodies]
    limit, ends = time.monotonic() + seconds, []
    for pid, read in running:
        data, late = b"", False
        with selectors.DefaultSelector() as selector:
            selector.register(read, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, limit - time.monotonic())):
                    late = True
                    os.kill(pid, signal.SIGKILL)
                    break
                part = os.read(read, 65536)
                if not part:
                    break
                data += part
        os.close(read)
        status = os.waitpid(pid, 0)[1]
        if late:
            ends.append({"how": "hang"})
        elif data:
            ends.append(json.loads(data))
        else:
            ends.append({"how": "killed", "status": status, "struck": True})
    return ends


def told(body: Callable[[], Any]) -> dict[str, Any]:
    """Run a body; return how it ended, with what it returned or raised."""
    try:
        return {"how": "done", "value": body()}
    except (ExistsAlreadyError, LockedError, InputError) as error:
        return {"how": "refused", "error": str(error)}
    except (MclstexpError, OSError) as error:  # the command prints both as one line
        return {"how": "failed", "error": f"{type(error).__name__}: {error}"}
    except (KeyboardInterrupt, SystemExit):
        return {"how": "stopped"}
    except BaseException as error:  # noqa: BLE001  everything else is a violation
        import traceback

        where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-5:])
        return {"how": "traceback", "error": f"{type(error).__name__}: {error}"[:500], "where": where}
