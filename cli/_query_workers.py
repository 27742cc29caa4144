"""Queries of many slides by the workers of a Ray cluster: each loads the reference once, then reads and predicts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mclstexp.cli._queries import Job, Queries, Reading
from mclstexp.cluster import Cluster
from mclstexp.errors import MclstexpError
from mclstexp.notes import inform
from mclstexp.text import counted

if TYPE_CHECKING:
    from mclstexp.data.positions.inputs import QueryInput
    from mclstexp.types import Device

Told = tuple[int, str, MclstexpError | None, list[str]]
"""Number of a slide, its state, why it failed, and what was warned of."""


@dataclass(frozen=True)
class Spread:
    """Where queries are answered.

    Attributes
    ----------
    address
        ``auto``, or ``host:port`` of a cluster's head.
    n
        How many workers; None for one a GPU, or one a CPU.
    device
        Where each computes.
    opened
        Keywords of `Reference.open`, the path first.
    model
        Folder of a model in place of the reference's own copy.
    """

    address: str
    n: int | None
    device: "Device"
    opened: dict[str, Any]
    model: Path | None

    def outcomes(self, queries: Queries) -> Iterator[Told]:
        """Yield what becomes of each slide, as soon as it is known."""
        arguments = {
            "opened": {**self.opened, "path": _absolute(self.opened["path"])},
            "model": self.model and _absolute(self.model),
            "inputs": [_lasting(job.input) for job in queries.jobs],
            "outputs": [job.output.absolute() for job in queries.jobs],
            "reading": replace(queries.reading, regions=queries.reading.regions and _absolute(queries.reading.regions)),
            **{"arguments": queries.arguments, "force": queries.force, "command": queries.command},
        }
        items = [{"slide": number} for number in range(len(queries.jobs))]
        with Cluster(self.address) as cluster:
            n = cluster.n_workers(len(items), device=self.device, workers=self.n)
            inform(f"{counted(n, 'worker')} on {cluster}: {counted(len(items), 'slide')}")
            for one in cluster.each(PredictSlide, arguments, items, device=self.device, workers=self.n):
                state = "failed" if one.answer is None else str(one.answer["state"])
                yield one.item, state, one.error, one.notes


class PredictSlide:
    """Reads, predicts and saves a slide, unless what is there was made from the same."""

    def __init__(
        self,
        opened: dict[str, Any],
        model: Path | None,
        inputs: "list[QueryInput]",
        outputs: list[Path],
        reading: Reading,
        arguments: dict[str, Any],
        force: bool,
        command: str,
    ) -> None:
        from mclstexp.index.reference import Reference
        from mclstexp.model.model import Model

        reference = Reference.open(**opened)
        if model is not None:
            reference.use_model(Model.load(model, device=opened["device"], cache=opened["cache"]))
        jobs = [Job(one, output) for one, output in zip(inputs, outputs, strict=True)]
        self._queries = Queries(reference, jobs, True, reading, arguments, force, command)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return what became of the slide."""
        job = self._queries.jobs[item["slide"]]
        self._queries.read(job)
        if job.state == "to predict":
            self._queries.predict(job, None)
        self._queries.draw(job)
        job.slide = None
        return {"state": job.state}


def _absolute(path: Any) -> Any:
    """Return a path that means the same in another folder; a URI is one."""
    return path.absolute() if isinstance(path, Path) else path


def _lasting(one: "QueryInput") -> "QueryInput":
    return replace(
        one,
        image=_absolute(one.image),
        coords=one.coords and _absolute(one.coords),
        regions=one.regions and _absolute(one.regions),
    )
