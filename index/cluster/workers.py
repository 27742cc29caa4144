"""Which workers share the slides, and the order in which their answers are taken."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mclstexp.cluster import Cluster, Outcome, Task
from mclstexp.data.readers.addresses import SlideAddresses
from mclstexp.errors import InputError
from mclstexp.index.store.place import Place
from mclstexp.notes import inform, warn
from mclstexp.slide import Slide
from mclstexp.text import counted, some
from mclstexp.types import Device, Progress, StrPath

COMMIT_EVERY = 100
"""Slides after which a build on a cluster commits what it has, so that so much at most is done again after a crash."""


@dataclass(frozen=True)
class Workers:
    """Where and how slides are encoded by a cluster.

    Attributes
    ----------
    address
        ``auto``, or ``host:port`` of the cluster's head.
    n
        How many workers; None for one a GPU, or one a CPU.
    commit_every
        Slides after which what is there is committed; 0 for one commit at the end.
    device, cache
        As in `Model.load`, on each worker.

    Raises
    ------
    InputError
        Commits are to come every less than 0 slides.

    Examples
    --------
    >>> import mclstexp as mst
    >>> mst.Workers("head:6379", n=4, commit_every=20)
    Workers(address='head:6379', n=4, commit_every=20, device='auto', cache=True)
    """

    address: str
    n: int | None = None
    commit_every: int = COMMIT_EVERY
    device: Device = "auto"
    cache: bool | StrPath = True

    def __post_init__(self) -> None:
        if self.commit_every < 0:
            raise InputError(f"A commit every {self.commit_every} slides cannot be; 0 is for one at the end.")

    def settings(self, place: Place, digest: str, folder: Path | None = None) -> dict[str, Any]:
        """Return what each worker is told: the place, and where the model is if not in the reference."""
        return {
            "place": str(place.root if place.local is None else place.local.absolute()),
            "options": place.options,
            "digest": digest,
            "folder": None if folder is None else str(folder.absolute()),
            "device": self.device,
            "cache": self.cache if isinstance(self.cache, bool) else str(Path(self.cache).absolute()),
        }

    def each(
        self,
        cluster: Cluster,
        task: Task,
        slides: SlideAddresses,
        arguments: dict[str, Any],
        step: str,
        on_progress: Progress | None = None,
    ) -> Generator[tuple[str, Outcome], None, None]:
        """Yield each slide's name and outcome, in the order of the slides; what was warned of on the way is said."""
        items = [{"slide_id": name} for name in slides.slide_ids]
        given = {"slides": slides.to_json(), **arguments}
        n = cluster.n_workers(len(items), device=self.device, workers=self.n)
        inform(f"{counted(n, 'worker')} on {cluster}: {step}")
        outcomes = cluster.each(task, given, items, device=self.device, workers=self.n)
        for outcome in in_order(_told(outcomes, len(items), step, on_progress)):
            for text in outcome.notes:
                warn(text)
            yield slides.slide_ids[outcome.item], outcome


def as_workers(ray: Workers | str, *, device: Device = "auto", cache: bool | StrPath = True) -> Workers:
    """Return workers as they are, or those at an address."""
    return ray if isinstance(ray, Workers) else Workers(ray, device=device, cache=cache)


def addressed(slides: Sequence[Slide] | SlideAddresses) -> SlideAddresses:
    """Refuse slides that were read: what travels to a cluster is where they are.

    Raises
    ------
    InputError
        When they are not what `find_slides` returns.
    """
    if not isinstance(slides, SlideAddresses):
        raise InputError(
            "A cluster reads the slides itself: give mclstexp.find_slides(refs) in place of read_slides(refs)."
        )
    return slides


def in_order(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Yield outcomes by their item's position, each as soon as those before it are there."""
    early: dict[int, Outcome] = {}
    due = 0
    for outcome in outcomes:
        early[outcome.item] = outcome
        while due in early:
            yield early.pop(due)
            due += 1


def _told(outcomes: Iterable[Outcome], total: int, step: str, on_progress: Progress | None) -> Iterator[Outcome]:
    for done, outcome in enumerate(outcomes, 1):
        if on_progress is not None:
            on_progress(step, done, total)
        yield outcome


def refuse_failed(failed: dict[str, str], n: int, standing: str) -> None:
    """Raise for the slides that failed, each with its reason, once the others are done.

    Raises
    ------
    InputError
        When there is any.
    """
    if not failed:
        return
    lines = [why if f"Slide {name}" in why else f"{name}: {why}" for name, why in failed.items()]
    if len(lines) == 1:
        raise InputError(f"1 of {counted(n, 'slide')} failed: {lines[0]} {standing}")
    for line in lines:
        inform(f"failed: {line}")
    raise InputError(
        f"{len(lines)} of {counted(n, 'slide')} failed, for the reasons above: {some(list(failed), 4)}. {standing}"
    )
