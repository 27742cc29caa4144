"""Queries of one slide or many: checked, counted and costed first, then run one by one with one model."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, note, progress, table
from mclstexp.errors import InputError, MclstexpError
from mclstexp.text import counted

if TYPE_CHECKING:
    from mclstexp.cli._query_workers import Spread
    from mclstexp.data.positions.files import CoordsColumns
    from mclstexp.data.positions.grid import Grid
    from mclstexp.data.positions.inputs import QueryInput, QueryInputs
    from mclstexp.data.tile_features import TileFeatures
    from mclstexp.index.reference import Reference
    from mclstexp.slide import Slide
    from mclstexp.types import Progress


@dataclass(frozen=True)
class Reading:
    """How slides are read: what the options say of all of them."""

    mpp: float | None
    mpp_from: Literal["given", "file", "pitch"] | None
    columns: "CoordsColumns"
    check_tissue: bool
    patient: str
    grid: "Grid | None"
    regions: Path | None
    tiles: "TileFeatures | None" = None


@dataclass
class Job:
    """One slide, and what becomes of it."""

    input: "QueryInput"
    output: Path
    slide: "Slide | None" = None
    request: str = ""
    state: str = "to predict"
    failure: MclstexpError | None = None

    @property
    def why(self) -> str:
        """Why it failed, with its name."""
        said = str(self.failure)
        return said if said.startswith(f"Slide {self.input.name}:") else f"{self.input.name}: {said}"

    @property
    def picture(self) -> Path:
        """Where the grid is drawn."""
        from mclstexp.data.positions.inputs import PICTURE

        return self.output.with_name(f"{self.output.stem}{PICTURE}")


@dataclass
class Queries:
    """Everything that one command asks for."""

    reference: "Reference"
    jobs: list[Job]
    several: bool
    reading: Reading
    arguments: dict[str, Any] = field(default_factory=dict)
    force: bool = False
    command: str = field(default_factory=options.command_line)
    spread: "Spread | None" = None

    def run(self, *, dry: bool) -> None:
        """Read and check every slide, say what it costs, and predict those that are not there yet.

        A slide that fails among several is told at the end, and the others go on.

        Raises
        ------
        MclstexpError
            The one slide cannot be read or predicted; or some of several could not, once the others are done.
        """
        if self.spread is not None and not dry:
            self._predict_on_cluster(self.spread)
            self._report()
            return
        show = progress() if self.several else None
        for number, job in enumerate(self.jobs, 1):
            self._attempt(job, self.read)
            if show is not None:
                show("reading slides", number, len(self.jobs))
        waiting = [job for job in self.jobs if job.state == "to predict"]
        if self.several:
            note(self._summary())
        slides = [job.slide for job in waiting if job.slide is not None and self.reading.tiles is None]
        if slides:
            note(str(self.reference.model.cost(slides)))
        if dry:
            for one in slides:
                for text in (*one.notes, *self.reference.doubts(one)):
                    note(f"{one.slide_id}: {text}" if self.several else text)
            emit(self._plan())
        else:
            self._predict(waiting)
        self._report()

    def _attempt(self, job: Job, step: Any) -> None:
        """Take a step of one slide; where there are several, what stops it stops none of the others."""
        try:
            step(job)
        except (MclstexpError, OSError) as error:
            failure = _as_line(error, job.input.image)
            if not self.several:
                raise failure from error
            job.state, job.failure = "failed", failure
            note(f"Warning: a slide failed, the others go on: {job.why}")

    def _predict_on_cluster(self, spread: "Spread") -> None:
        """Let workers read and predict the slides, and note what becomes of each as they tell it."""
        _make_folder(self.jobs[0].output.parent)
        show, n = progress(), len(self.jobs)
        for done, (number, state, failure, notes) in enumerate(spread.outcomes(self), 1):
            job = self.jobs[number]
            for text in notes:
                note(text)
            job.state, job.failure = state, failure
            if failure is not None:
                note(f"Warning: a slide failed, the others go on: {job.why}")
            elif state == "predicted":
                emit(str(job.output))
            show(f"predicting {counted(n, 'slide')}", done, n)
        note(self._summary())

    def read(self, job: Job) -> None:
        job.slide = self._slide(job.input)
        if self.reading.tiles is None and self.reference.model.config.patch.mpp is not None:
            job.slide.require_mpp()
        job.request = self._request(job.slide)
        if not self.force and self.several and job.output.exists():
            if finished_request(job.output) != job.request:
                raise InputError(
                    f"{job.output} exists already and was not made from the same slide, reference and options; give "
                    "--force to replace it, or another -o."
                )
            job.state = "there already"

    def _slide(self, one: "QueryInput") -> "Slide":
        from mclstexp.data.positions.query import read_query

        how = self.reading
        mpp, patient = how.mpp if how.mpp is not None else one.mpp, how.patient or one.patient
        if how.tiles is not None:
            return how.tiles.slide(one.image, mpp=mpp, mpp_from=how.mpp_from, patient=patient)
        return read_query(
            one.image,
            one.coords,
            mpp=mpp,
            mpp_from=how.mpp_from,
            columns=how.columns,
            check_tissue=how.check_tissue,
            patient=patient,
            grid=None if one.coords is not None else self._grid,
            regions=how.regions if how.regions is not None else one.regions,
            name=one.name,
        )

    def _request(self, slide: "Slide") -> str:
        """Digest of all that decides a prediction."""
        from mclstexp.settings import to_dict

        spots, store = slide.spots, self.reference.store
        condition = self.arguments.get("filter")
        asked = {
            "image": slide.image.digest() if slide.image is not None else "",
            "spots": hashlib.sha256("\n".join(spots.spot_ids.tolist()).encode() + spots.xy_px.tobytes()).hexdigest(),
            "slide": [slide.slide_id, slide.patient, slide.mpp],
            "reference": [store.identity.model_digest, store.snapshot.manifest_sha256],
            **{name: value for name, value in self.arguments.items() if name not in ("filter", "features")},
            "filter": to_dict(condition) if condition is not None else {},
            "features": self.reading.tiles is not None,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()

    def _predict(self, waiting: Sequence[Job]) -> None:
        from mclstexp.progress import Whole

        show = progress()
        n_spots = sum(len(job.slide) for job in waiting if job.slide is not None)
        whole = Whole(f"encoding {counted(len(waiting), 'slide')}", n_spots, show)
        if self.several and waiting:
            _make_folder(waiting[0].output.parent)
        for number, job in enumerate(waiting, 1):
            if self.several:
                note(f"{number} of {len(waiting)}: {job.input.name}")
            part = whole.part(0 if job.slide is None else len(job.slide)) if self.several else show

            def shown(step: str, done: int, total: int, part: "Progress" = part) -> None:
                (part if step.startswith("encoding ") else show)(step, done, total)

            self._attempt(job, partial(self.predict, show=shown))
            if job.state == "predicted":
                emit(str(job.output))  # apart: a pipe or disk that takes no more is not the slide's fault
        whole.finish()
        for job in self.jobs:
            if job.state in ("predicted", "there already"):
                self._attempt(job, self.draw)

    def predict(self, job: Job, show: Any) -> None:
        """Predict a slide that was read, and save it."""
        if job.slide is None:
            return
        prediction = self.reference.query(
            job.slide, command=self.command, on_progress=show, **self.arguments, features=self.reading.tiles
        )
        if job.slide.image is not None:
            job.slide.image.close()
        prediction = replace(prediction, settings={**prediction.settings, "request": job.request})
        # Among several, what stands and is whole was found before; a neighbours' file alone is of a killed run.
        prediction.save(job.output, force=self.force or self.several)
        job.state = "predicted"
        note(f"{prediction!r} from {self.reference!r}")

    def draw(self, job: Job) -> None:
        """Draw the grid that was laid; one that stands from an earlier run stays."""
        if job.slide is None or job.slide.tissue is None or (job.state == "there already" and job.picture.exists()):
            return
        from mclstexp.outputs.maps.grid import grid_map

        grid_map(job.slide, job.picture, force=True)
        note(f"grid drawn: {job.picture}")

    @property
    def _grid(self) -> "Grid":
        return self.reading.grid or self.reference.grid

    def _summary(self) -> str:
        numbers = {state: sum(job.state == state for job in self.jobs) for state in ("there already", "failed")}
        left = len(self.jobs) - sum(numbers.values())
        parts = [f"{left} to predict"]
        parts += [f"{numbers['there already']} there already, from the same inputs"] if numbers["there already"] else []
        parts += [f"{numbers['failed']} cannot be read"] if numbers["failed"] else []
        return f"{counted(len(self.jobs), 'slide')}: {', '.join(parts)}"

    def _plan(self) -> str:
        """Return a line a slide: what a dry run is for."""
        rows: list[list[object]] = []
        for job in self.jobs:
            slide = job.slide
            n_spots = None if slide is None else len(slide)
            mpp = None if slide is None else slide.mpp
            where = "tiles" if self.reading.tiles is not None else str(job.input.coords or self._grid)
            rows.append([job.input.name, n_spots, where, mpp, job.state, str(job.output)])
        return table(["slide", "spots", "at", "um a pixel", "state", "output"], rows)

    def _report(self) -> None:
        failed = [job for job in self.jobs if job.failure is not None]
        if not failed:
            return
        if len(failed) == 1:
            raise InputError(f"1 of {counted(len(self.jobs), 'slide')} failed: {failed[0].why}")
        for job in failed:
            note(f"failed: {job.why}")
        raise InputError(f"{len(failed)} of {len(self.jobs)} slides failed, for the reasons above.")


def plan_outputs(inputs: "QueryInputs", output: Path | None, *, force: bool) -> list[Path]:
    """Return where each slide's prediction goes; refuse, before any work, what cannot be written.

    Raises
    ------
    InputError, ExistsAlreadyError
        The name is no ``.h5ad``, or is a file's where a folder is needed; a folder is missing; the output exists.
    """
    from mclstexp.data.positions.inputs import PICTURE
    from mclstexp.predict.evidence import neighbours_path
    from mclstexp.storage import check_output

    names = [one.name for one in inputs.slides]
    if inputs.several:
        folder = output or Path()
        if folder.suffix.lower() == ".h5ad" or folder.is_file():
            raise InputError(f"{folder} is one file for {counted(len(names), 'slide')}; give a folder: -o out/.")
        if not folder.is_dir():
            check_output(folder, force=False)
        return [folder / f"{name}.h5ad" for name in names]
    chosen = Path(f"{names[0]}.h5ad") if output is None else output
    if chosen.is_dir():
        chosen = chosen / f"{names[0]}.h5ad"
    if chosen.suffix.lower() != ".h5ad":
        raise InputError(
            f"A prediction is written as .h5ad, not as {chosen.name!r}; give -o {chosen.stem or names[0]}.h5ad, and "
            "mst export writes other formats."
        )
    extra = [chosen.with_name(f"{chosen.stem}{PICTURE}")] if inputs.slides[0].coords is None else []
    for path in (chosen, neighbours_path(chosen), *extra):
        check_output(path, force=force)
    return [chosen]


def finished_request(path: Path) -> str | None:
    """Return what a prediction was made from, or None where it or its neighbours are not whole."""
    import h5py

    from mclstexp.predict.evidence import check_one_run, neighbours_path

    try:
        with h5py.File(path, "r") as file:
            record = file["uns/mclstexp"]
            request, digest = (record[name].asstr()[()] for name in ("request", "neighbours_sha256"))
        check_one_run(path, neighbours_path(path), digest)
    except (OSError, KeyError, AttributeError, TypeError, ValueError, RuntimeError, MclstexpError):
        return None
    return str(request)


def _as_line(error: MclstexpError | OSError, place: Path) -> MclstexpError:
    from mclstexp.storage import storage_error

    return error if isinstance(error, MclstexpError) else storage_error(error, place)


def _make_folder(folder: Path) -> None:
    from mclstexp.storage import storage_errors

    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
