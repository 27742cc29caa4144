"""Building a reference and adding to one by the workers of a cluster. What the table holds is the ledger.

Workers write fragments, which belong to no version; the driver alone commits, in the order of the slides, so that the
table is that of a build on one machine. Whatever is killed, a slide is in the table once or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from mclstexp.cluster import Cluster, Outcome
from mclstexp.data.readers.addresses import SlideAddresses
from mclstexp.data.readers.twins import said_of
from mclstexp.index.cluster.worker import CountSlide, EncodeSlide
from mclstexp.index.cluster.workers import Workers, addressed, as_workers, refuse_failed
from mclstexp.index.encode import identity_of
from mclstexp.index.store.build import building, is_unfinished
from mclstexp.index.store.change import Rows, now
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.lock import writing
from mclstexp.index.store.place import Place
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.writer import AddReport, commit_rows
from mclstexp.model.model import Model
from mclstexp.notes import inform, warn
from mclstexp.slide import Slide
from mclstexp.text import counted, duration, size, some
from mclstexp.types import Progress

Written = tuple[str, dict[str, Any]]
"""A slide's name, and what its worker said of the rows that it wrote."""


def build_or_go_on(
    place: Place,
    slides: Sequence[Slide] | SlideAddresses,
    model: Model,
    ray: Workers | str,
    *,
    index: str,
    force: bool,
    message: str,
    **how: Any,
) -> None:
    """Build a reference of slides, or go on with such a build that was stopped.

    Raises
    ------
    InputError, ExistsAlreadyError, MismatchError
        Some slide failed; there is a finished reference and ``force`` is not set, or one of another model.
    """
    found, workers, identity = addressed(slides), as_workers(ray), identity_of(model)
    how["message"] = message or f"build from {counted(len(found), 'slide')}"
    if not force and is_unfinished(place):
        there = Snapshot.at(place)
        there.check_identity(identity)
        inform(f"going on with {place}: {len(there.entries)} of {counted(len(found), 'slide')} are there")
        report = add_on_cluster(place, found, workers, **how)
    else:
        save = partial(model.save, force=True)
        report = build_on_cluster(place, identity, found, workers, save_model=save, index=index, force=force, **how)
    refuse_failed(report.failed, len(found), f"The others are in {place}; the same command goes on with these.")


def build_on_cluster(
    place: Place,
    identity: ReferenceIdentity,
    slides: SlideAddresses,
    workers: Workers,
    *,
    save_model: Callable[[Path], None],
    message: str,
    command: str,
    index: str = "auto",
    force: bool = False,
    on_progress: Progress | None = None,
) -> AddReport:
    """Build a reference; its first commit makes it, further ones add to it.

    Raises
    ------
    ExistsAlreadyError, InputError
        There is a reference and ``force`` is not set; no slide could be encoded.
    """
    with building(place, identity, command=command, index=index, force=force, save_model=save_model) as begun:
        job = _Job(place, identity, slides, workers, message, command, on_progress)
        for batch, last in _groups(job.written("overwrite", {}, replace=False), workers.commit_every):
            said: dict[str, Any] = {"message": job.message_of(batch, last=last), "command": command}
            said |= {"unfinished": job.is_unfinished(last=last), "derive": last}
            rows = job.rows_of(batch)
            if job.report.version == 0:
                job.report.version = begun.commit(rows, **said).version
                job.report.added += rows.slides
            else:
                commit_rows(place, job.onto(rows), job.report, replace=False, **said)
        if job.report.version == 0:
            refuse_failed(job.report.failed, len(slides), "Nothing was written.")
        return job.ended()


def add_on_cluster(
    place: Place,
    slides: SlideAddresses,
    workers: Workers,
    *,
    replace: bool = False,
    message: str = "",
    command: str = "",
    on_progress: Progress | None = None,
) -> AddReport:
    """Add slides that the reference does not hold yet.

    Raises
    ------
    InputError
        The reference was built anew meanwhile.
    """
    with place.errors(), writing(place, command or "add"):
        start = Snapshot.at(place)
        known = {entry.slide_id: list(entry.content) for entry in start.entries}
        job = _Job(place, start.identity, slides, workers, message, command, on_progress)
        job.report.version = start.version
        for batch, last in _groups(job.written("append", known, replace=replace), workers.commit_every):
            said: dict[str, Any] = {"message": job.message_of(batch, last=last), "command": command}
            said |= {"unfinished": job.is_unfinished(last=last), "derive": last}
            commit_rows(place, job.onto(job.rows_of(batch), start), job.report, replace=replace, **said)
        return job.ended()


class _Job:
    """One build or add: what its workers say, and what becomes of it."""

    def __init__(
        self,
        place: Place,
        identity: ReferenceIdentity,
        slides: SlideAddresses,
        workers: Workers,
        message: str,
        command: str,
        on_progress: Progress | None,
    ) -> None:
        self._place, self._identity, self._slides, self._workers = place, identity, slides, workers
        self._message, self._command, self._on_progress = message, command, on_progress
        self._time = now()
        self._blind: list[str] = []
        self._counts: dict[str, str] = {}
        self._one = True
        self.report = AddReport()

    def written(self, mode: str, known: dict[str, list[str]], *, replace: bool) -> Iterator[Written]:
        """Yield the slides that were written, in their order; those that failed or are there are noted."""
        arguments = {
            "settings": self._workers.settings(self._place, self._identity.model_digest),
            **{"mode": mode, "time": self._time, "known": known, "replace": replace},
        }
        step = f"encoding {counted(len(self._slides), 'slide')}"
        with Cluster(self._workers.address) as cluster:
            each = self._workers.each(cluster, EncodeSlide, self._slides, arguments, step, self._on_progress)
            with closing(each) as outcomes:
                for name, outcome in outcomes:
                    answer = self._noted(name, outcome)
                    if answer is not None:
                        yield name, answer

    def _noted(self, name: str, outcome: Outcome) -> dict[str, Any] | None:
        answer = outcome.answer
        if answer is None:
            self.report.failed[name] = str(outcome.error)
            return None
        same = self._counts.setdefault(answer["counts"] or name, name)
        if same != name:
            warn(said_of(name, same))
        if answer["there"]:
            self.report.skipped.append(name)
            return None
        if not answer["has_image"]:
            self._blind.append(name)
        return answer

    def rows_of(self, batch: list[Written]) -> Rows:
        """Return what was written of some slides, ready to be committed."""
        from lance import FragmentMetadata

        return Rows(
            self._place,
            self._identity.panel,
            self._identity.embed_dim,
            self._time,
            slides={name: (said["content"][0], said["content"][1], said["content"][2]) for name, said in batch},
            fragments=[FragmentMetadata.from_json(text) for _, said in batch for text in said["fragments"]],
            genes={digest for _, said in batch for digest in said["genes"]},
        )

    def onto(self, rows: Rows, start: Snapshot | None = None) -> Rows:
        """Bind rows to the reference that they were written for."""
        rows.metadata = (start or Snapshot.at(self._place)).metadata
        return rows

    def message_of(self, batch: list[Written], *, last: bool) -> str:
        """Return what the history says of a commit, with its slides where it is one of several."""
        self._one = self._one and last
        if self._one:
            return self._message
        names = [name for name, _ in batch]
        return f"{self._message} ({names[0]} to {names[-1]})" if len(names) > 1 else f"{self._message} ({names[0]})"

    def is_unfinished(self, *, last: bool) -> bool:
        """Whether slides are still to come, or have failed."""
        return not last or bool(self.report.failed)

    def ended(self) -> AddReport:
        """Say what holds of several slides, and return what was done."""
        if self._blind:
            warn(
                f"{len(self._blind)} of {len(self._slides)} slides have no image ({some(self._blind)}): their keys are "
                "their spot embeddings alone."
            )
        return self.report


def _groups(written: Iterator[Written], every: int) -> Iterator[tuple[list[Written], bool]]:
    """Yield the slides of each commit, and whether it is the last."""
    held: list[Written] = []
    for one in written:
        if every and len(held) >= every:
            yield held, False
            held = []
        held.append(one)
    if held:
        yield held, True


def cost_on_cluster(
    place: Place,
    digest: str,
    slides: SlideAddresses,
    workers: Workers,
    *,
    folder: Path | None = None,
    on_progress: Progress | None = None,
) -> str:
    """Return in a sentence what slides cost: every worker counts, and encodes a batch to know its pace.

    Raises
    ------
    InputError
        Some slide cannot be read.
    """
    settings = {"settings": workers.settings(place, digest, folder)}
    total: dict[str, float] = dict.fromkeys(("n_spots", "n_passes", "seconds", "image_bytes", "row_bytes"), 0)
    failed: dict[str, str] = {}
    with Cluster(workers.address) as cluster:
        n = cluster.n_workers(len(slides), device=workers.device, workers=workers.n)
        for name, outcome in workers.each(cluster, CountSlide, slides, settings, "counting slides", on_progress):
            if outcome.answer is None:
                failed[name] = str(outcome.error)
                continue
            for key in total:
                total[key] += outcome.answer[key]
    refuse_failed(failed, len(slides), "Nothing was encoded or written.")
    return _said_of_cost(total, len(slides), n)


def _said_of_cost(total: dict[str, float], n_slides: int, n_workers: int) -> str:
    """Return what a dry run says."""
    if not total["n_passes"]:
        pace = "all features are cached"
    else:
        pace = (
            f"{total['n_passes']:,.0f} passes of the encoder, about {duration(total['seconds'] / n_workers)} with "
            f"{counted(n_workers, 'worker')}"
        )
    return (
        f"{counted(n_slides, 'slide')}, {total['n_spots']:,.0f} spots, images of {size(total['image_bytes'])}, "
        f"rows of about {size(total['row_bytes'])} before compression; {pace}"
    )
