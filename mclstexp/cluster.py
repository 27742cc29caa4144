"""Work spread over the machines of a Ray cluster: a task is loaded once a worker, and given item after item.

The only importer of ray, which is an extra: ``pip install 'mclstexp[ray]'``. Items and answers are plain JSON
values, so that what travels is small and can be read; large things are written where every machine reads them.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mclstexp
from mclstexp import errors
from mclstexp.errors import InputError, MclstexpError, MclstexpWarning, MismatchError
from mclstexp.notes import inform
from mclstexp.text import counted
from mclstexp.types import Device

Task = Callable[..., Callable[[dict[str, Any]], dict[str, Any]]]
"""A class: made once a worker with keywords, then called with an item, and returns an answer."""

AUTO = "auto"
CONNECT_SECONDS = 10.0
"""How long an address may take to answer."""
RETRIES = 3
"""How often an item is given to another worker after one was killed by it, or while it was at it."""
OBJECT_STORE = 100 * 2**20
"""Bytes of the shared memory of a cluster that is started here; items are small."""

_LOG = logging.getLogger("mclstexp")


@dataclass(frozen=True)
class Outcome:
    """What became of an item.

    Attributes
    ----------
    item
        Its position among the items.
    answer
        What the task returned; None where it failed.
    error
        Why it failed, in one line.
    notes
        What was warned of on the way.
    """

    item: int
    answer: dict[str, Any] | None = None
    error: MclstexpError | None = None
    notes: list[str] = field(default_factory=list)


class Cluster:
    """A Ray cluster that runs, or one that is started on this machine.

    Parameters
    ----------
    address
        ``auto`` for the cluster that this process or machine belongs to, and where there is none for one of this
        machine alone; or the ``host:port`` of a cluster's head. Which it is, is said.

    Raises
    ------
    InputError, MismatchError
        Ray is not installed; no cluster answers at the address, or this machine is not of it; the cluster runs another
        version of Ray or Python.

    Examples
    --------
    ::

        with Cluster("auto") as cluster:
            for outcome in cluster.each(EncodeSlides, {"refs": "refs/"}, [{"slide_id": "A1"}, {"slide_id": "B1"}]):
                print(outcome.answer or outcome.error)
    """

    def __init__(self, address: str = AUTO) -> None:
        _require_ray()
        self._started = _connect(address)
        import ray

        resources = ray.cluster_resources()
        self.n_nodes = sum(node["Alive"] for node in ray.nodes())
        self.n_cpus, self.n_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        import ray

        if self._started:
            ray.shutdown()

    def __str__(self) -> str:
        gpus = f", {counted(self.n_gpus, 'GPU')}" if self.n_gpus else ""
        return f"{counted(self.n_nodes, 'machine')}, {counted(self.n_cpus, 'CPU')}{gpus}"

    def n_workers(self, n_items: int, *, device: Device = "auto", workers: int | None = None) -> int:
        """Return how many workers share the items: one a GPU, or one a CPU, no more than there are items.

        Raises
        ------
        InputError
            A GPU is asked for and the cluster has none; fewer than one worker is asked for.
        """
        if workers is not None and workers < 1:
            raise InputError(f"{workers} workers were asked for; 1 is the least.")
        if device == "cuda" and not self.n_gpus:
            raise InputError(
                f"Device cuda was asked for, and the cluster ({self}) has no GPU; use --device auto or cpu."
            )
        there = max(1, self.n_gpus if self._on_gpu(device) else self.n_cpus)
        return max(1, min(n_items, there if workers is None else min(workers, there)))

    def _on_gpu(self, device: Device) -> bool:
        return device != "cpu" and self.n_gpus > 0

    def each(
        self,
        task: Task,
        arguments: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        *,
        device: Device = "auto",
        workers: int | None = None,
    ) -> Iterator[Outcome]:
        """Give every item to the task on some worker, and yield each outcome as soon as it is there, in any order.

        What an item's own task raises is that item's outcome. An item whose worker is killed is given to another one,
        three times; then it has failed.

        Parameters
        ----------
        task, arguments
            A class that every machine can import, and the keywords that each worker makes it with.
        items
            Plain JSON values.
        device
            ``cuda`` takes a GPU a worker, ``cpu`` a CPU, ``auto`` a GPU where the cluster has any.
        workers
            How many at once; None for as many as the cluster has GPUs, or CPUs.
        """
        if not items:
            return
        rows = [{"item": json.dumps([number, dict(item)])} for number, item in enumerate(items)]
        n, gpu = self.n_workers(len(items), device=device, workers=workers), self._on_gpu(device)
        waiting = set(range(len(items)))
        given = {"task": task, "arguments": dict(arguments), "version": mclstexp.__version__}
        for text in _answers(rows, given, n, gpu=gpu):
            outcome = _outcome(json.loads(text))
            if outcome.item in waiting:
                waiting.discard(outcome.item)
                yield outcome
        for number in sorted(waiting):
            yield Outcome(number, error=MclstexpError(
                f"its worker was killed {RETRIES + 1} times (is there too little memory? see Ray's own logs)"
            ))  # fmt: skip


def _answers(rows: list[dict[str, str]], given: dict[str, Any], n: int, *, gpu: bool) -> Iterator[str]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = len(rows)  # whose worker is killed again and again; the others go on
    with _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of ray_remote_args_fn, which has no successor yet
        answers = (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map_batches(
                _Worker,
                fn_constructor_kwargs=given,
                batch_size=1,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=n, max_tasks_in_flight_per_actor=1),
                num_cpus=0 if gpu else 1,
                num_gpus=1 if gpu else 0,
                ray_remote_args_fn=_retries,
            )
            .iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy")
        )
        for batch in answers:
            yield from (str(text) for text in batch["answer"])


def _retries() -> dict[str, int]:
    return {"max_task_retries": RETRIES}


class _Worker:
    """One process of the cluster: the task, made once, and the items that it is given."""

    def __init__(self, task: Task, arguments: dict[str, Any], version: str) -> None:
        self._call: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        self._failed: dict[str, Any] = {}
        if version != mclstexp.__version__:
            where = socket.gethostname()
            self._failed = _failure(
                MismatchError(f"{where} has mclstexp {mclstexp.__version__}, the driver {version}; install the same.")
            )
            return
        try:
            self._call = task(**arguments)
        except (MclstexpError, OSError) as error:
            self._failed = _failure(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        return {"answer": np.array([self._one(*json.loads(text)) for text in batch["item"]], dtype=object)}

    def _one(self, number: int, item: dict[str, Any]) -> str:
        if self._call is None:
            return json.dumps({"item": number, **self._failed})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", MclstexpWarning)
            try:
                said: dict[str, Any] = {"answer": self._call(item)}
            except (MclstexpError, OSError) as error:
                said = _failure(error)
            except Exception as error:  # noqa: BLE001 whatever one item meets, the others of a day's work go on
                _LOG.debug("item %s", item, exc_info=True)
                said = _failure(MclstexpError(f"{type(error).__name__}: {' '.join(str(error).split())}"))
        notes = [str(one.message) for one in caught if issubclass(one.category, MclstexpWarning)]
        return json.dumps({"item": number, **said, "notes": notes})


def _failure(error: MclstexpError | OSError) -> dict[str, Any]:
    kind = type(error).__name__ if isinstance(error, MclstexpError) else "StorageError"
    return {"error": kind, "said": str(error)}


def _outcome(values: dict[str, Any]) -> Outcome:
    error = None
    if "error" in values:
        kind = getattr(errors, values["error"], MclstexpError)
        error = kind(values["said"])
    return Outcome(values["item"], values.get("answer"), error, list(values.get("notes", ())))


# --- the connection


def _require_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise InputError("Work on a cluster needs Ray: pip install 'mclstexp[ray]'.")


def _connect(address: str) -> bool:
    """Connect, say to what, and return whether a cluster was started for it."""
    found = address if address != AUTO else os.environ.get("RAY_ADDRESS", "")
    if "://" in found:
        raise InputError(
            f"Ray's client address {found} is not for this: run the command on a machine of the cluster, with "
            "--ray auto or --ray HOST:PORT of its head."
        )
    if address != AUTO:
        _check_answers(address)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not found:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # which keeps a single machine on loopback
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    _quiet()
    if ray.is_initialized():
        return False
    found = found or _running()
    if not found:
        with _forking():
            ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE, **_SILENT)
        inform("no Ray cluster runs on this machine: one of this machine alone was started")
        return True
    try:
        with _forking():
            ray.init(address=found, **_SILENT)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _refusal(found, error) from error
    inform(f"the Ray cluster at {found}")
    return True


_SILENT: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


@contextmanager
def _forking() -> Iterator[None]:
    """Let Ray start its processes and join it, without a word: what goes wrong is raised.

    Lance warns of forks, and what is forked here starts another program at once; Ray's library writes of its own
    settings to the process's stderr.
    """
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _running() -> str:
    """Return the address that ``ray start`` left on this machine, if a cluster answers there."""
    from ray._private.utils import read_ray_address

    address = read_ray_address() or ""
    return address if address and _answers_at(address) else ""


def _check_answers(address: str) -> None:
    if ":" not in address or not address.rpartition(":")[2].isdigit():
        raise InputError(f"{address!r} is no address of a Ray cluster; auto or HOST:PORT is needed.")
    if not _answers_at(address):
        raise InputError(f"No Ray cluster answers at {address}; start one (ray start --head) or correct the address.")


def _answers_at(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _refusal(address: str, error: Exception) -> MclstexpError:
    said = " ".join(str(error).split())
    if "ersion mismatch" in said:
        return MismatchError(f"The Ray cluster at {address} runs other versions than this machine: {said[:200]}")
    return InputError(
        f"The Ray cluster at {address} cannot be joined here ({said[:200]}); run the command on one of its machines."
    )


def _quiet() -> None:
    """Keep what Ray prints of dead workers off stdout, which is the command's; what failed is told by item."""
    from ray._private import worker

    def noted(data: Mapping[str, Any], **_: object) -> None:
        _LOG.debug("ray: %s", " ".join(data.get("lines", ())))

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = noted


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Ray Data's own lines off the console for a block."""
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)
