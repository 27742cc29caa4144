"""``mst build-index`` and ``mst add``: slides into a reference."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, progress
from mclstexp.cli.train import cost_of_training_first, train_first
from mclstexp.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mclstexp.data.readers.addresses import SlideAddresses
    from mclstexp.index.cluster.workers import Workers
    from mclstexp.index.reference import Reference
    from mclstexp.model.model import Model
    from mclstexp.slide import Slide
    from mclstexp.types import Progress


def build_index(
    refs: options.Refs,
    model: options.ModelOption = None,
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="PATH", help="The reference folder to write, or s3://bucket/folder."),
    ] = str(options.REFERENCE),
    storage_option: options.StorageOption = None,
    slides: options.Only = None,
    mpp: options.Mpp = None,
    mpp_from: options.MppFrom = None,
    bin_um: options.BinUm = None,
    cells: options.Cells = False,
    pool_um: options.PoolUm = None,
    index: Annotated[
        Literal["auto", "exact", "ivf-sq8", "ivf-fp16", "ivf-flat"],
        typer.Option("--index", help="Kind of search index; auto goes by size, see docs/store.md."),
    ] = "auto",
    encoder: options.Encoder = None,
    encoder_weights: options.EncoderWeights = None,
    message: options.Message = "",
    ray: options.Ray = None,
    workers: options.RayWorkers = None,
    commit_every: options.CommitEvery = None,
    device: options.Device = "auto",
    cache: options.Cache = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
) -> None:
    """Encode slides with a model and write them as a reference (./reference unless -o says another).

    The model is --model, else $MST_MODEL, else ./model; where there is none, the default recipe is trained first and
    kept in ./model (--encoder and --encoder-weights are for that). With --ray the same command goes on where one was
    killed.

    Example: mst build-index refs/
    """
    from mclstexp.index.reference import Reference

    place = options.place_of(output)
    access = options.storage(storage_option, place)
    spread = options.workers(ray, workers, commit_every, device=device, cache=cache)
    _check_place(place, access, force=force, goes_on=spread is not None)
    bar = progress()
    named = _model_folder(model, encoder, encoder_weights)
    read: Sequence[Slide] | SlideAddresses
    if spread is None:
        read = options.read_refs(
            refs, slides, mpp=mpp, mpp_from=mpp_from, bin_um=bin_um, cells=cells, pool_um=pool_um, on_progress=bar
        )
        if dry_run:
            emit(_cost(named, read, encoder, encoder_weights, device, cache))
            return
        trained = _model(named, read, encoder, encoder_weights, device, cache)
    else:
        read = options.find_refs(refs, slides, mpp=mpp, mpp_from=mpp_from, bin_um=bin_um, cells=cells, pool_um=pool_um)
        trained = _trained_before(named, device, cache)
        if dry_run:
            emit(_cost_on_cluster(spread, read, named, bar))
            return
    reference = Reference.build(
        place,
        read,
        trained,
        ray=spread,
        index=index,
        message=message,
        command=options.command_line(),
        force=force,
        storage_options=access,
        on_progress=bar,
    )
    note(f"{reference!r}, {len(reference.genes):,} genes")
    emit(str(place))


def _check_place(place: Path | str, access: dict[str, str] | None, *, force: bool, goes_on: bool = False) -> None:
    """Refuse an output that is there, or an object store that cannot be used, before anything is read."""
    from mclstexp.storage import check_output

    if goes_on and not force and (not isinstance(place, Path) or place.exists()):
        from mclstexp.index.store.build import is_unfinished
        from mclstexp.index.store.place import Place

        if is_unfinished(Place(place, access)):
            return
    if isinstance(place, Path):
        check_output(place, force=force)
        return
    from mclstexp.index.store.build import check_target
    from mclstexp.index.store.place import Place

    check_target(Place(place, access), force=force)


def _model_folder(folder: Path | None, encoder: str | None, encoder_weights: str | None) -> Path | None:
    """Return the folder of the model that is meant, or None where there is none yet."""
    if folder is None and options.MODEL.is_dir():
        note(f"model: ./{options.MODEL}")
        folder = options.MODEL
    if folder is None:
        return None
    if options.typed(encoder, "MST_ENCODER") or options.typed(encoder_weights, "MST_ENCODER_WEIGHTS"):
        raise typer.BadParameter(
            f"nothing is trained: the model of {folder} has its own encoder.",
            param_hint="--encoder, --encoder-weights",
        )
    return folder


def _cost(
    folder: Path | None,
    slides: "Sequence[Slide]",
    encoder: str | None,
    encoder_weights: str | None,
    device: "options.Device",
    cache: Path | None,
) -> str:
    """Return what a build encodes; where a model is trained first, its features serve the build too."""
    from mclstexp.model.model import Model

    if folder is None:
        note(f"there is no model at ./{options.MODEL}: one would be trained first")
        given = {"encoder": encoder, "encoder_weights": encoder_weights}
        return cost_of_training_first(slides, **given, device=device, cache=cache)
    model = Model.load(folder, device=device, cache=options.cache_of(cache))
    return str(model.cost([slide for slide in slides if slide.image is not None]))


def _model(
    folder: Path | None,
    slides: "Sequence[Slide]",
    encoder: str | None,
    encoder_weights: str | None,
    device: "options.Device",
    cache: Path | None,
) -> "Model":
    """Return the model that is meant; without any, the default recipe is trained, which is said."""
    from mclstexp.model.model import Model

    if folder is not None:
        return Model.load(folder, device=device, cache=options.cache_of(cache))
    pictured = [slide for slide in slides if slide.image is not None]
    note(
        f"No model is named (--model, $MST_MODEL) and there is none at ./{options.MODEL}: the default recipe is "
        f"trained first, on {len(pictured)} slides and {sum(map(len, pictured)):,} spots, and kept there."
    )
    return train_first(
        slides, options.MODEL, encoder=encoder, encoder_weights=encoder_weights, device=device, cache=cache
    )


def _trained_before(folder: Path | None, device: "options.Device", cache: Path | None) -> "Model":
    """Return the model that the workers of a cluster are to load; training is one machine's work.

    Raises
    ------
    InputError
        When there is none yet.
    """
    from mclstexp.errors import InputError
    from mclstexp.model.model import Model

    if folder is None:
        raise InputError(f"--ray needs a model, and there is none at ./{options.MODEL}; train one: mst train refs/")
    return Model.load(folder, device=device, cache=options.cache_of(cache))


def _cost_on_cluster(
    spread: "Workers",
    found: "SlideAddresses",
    folder: Path | None,
    bar: "Progress",
    reference: "Reference | None" = None,
) -> str:
    """Return what slides cost, as the workers measure it, with the model of a folder or of a reference."""
    from mclstexp.index.cluster.build import cost_on_cluster
    from mclstexp.index.store.place import Place

    place = Place(".") if reference is None else reference.store.place
    digest = "" if reference is None else reference.store.identity.model_digest
    return cost_on_cluster(place, digest, found, spread, folder=folder, on_progress=bar)


def add(
    refs: options.Refs,
    folder: options.ReferenceArgument = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    slides: options.Only = None,
    mpp: options.Mpp = None,
    mpp_from: options.MppFrom = None,
    bin_um: options.BinUm = None,
    cells: options.Cells = False,
    pool_um: options.PoolUm = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let a slide of the same name and other content take the old one's place.")
    ] = False,
    message: options.Message = "",
    ray: options.Ray = None,
    workers: options.RayWorkers = None,
    commit_every: options.CommitEvery = None,
    device: options.Device = "auto",
    cache: options.Cache = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Add slides to a reference: they alone are encoded, nothing is trained or encoded again.

    Example: mst add more_refs/
    """
    opened = options.open_reference(folder, reference, storage_option=storage_option, device=device, cache=cache)
    spread = options.workers(ray, workers, commit_every, device=device, cache=cache)
    bar = progress()
    given: Sequence[Slide] | SlideAddresses
    if spread is not None:
        given = options.find_refs(refs, slides, mpp=mpp, mpp_from=mpp_from, bin_um=bin_um, cells=cells, pool_um=pool_um)
        if dry_run:
            emit(_cost_on_cluster(spread, given, None, bar, opened))
            return
    else:
        given = read = options.read_refs(
            refs, slides, mpp=mpp, mpp_from=mpp_from, bin_um=bin_um, cells=cells, pool_um=pool_um, on_progress=bar
        )
    if dry_run:
        new = opened.new_among(read, replace=replace)
        cost = opened.model.cost([slide for slide in new if slide.image is not None])
        emit(f"{len(new)} of {counted(len(read), 'slide')} to add, {len(read) - len(new)} there already; {cost}")
        return
    said = {"message": message, "command": options.command_line()}
    report = opened.add(given, ray=spread, replace=replace, on_progress=bar, **said)
    if as_json:
        emit_json(vars(report))
        return
    emit(
        f"version {report.version}: {len(report.added)} added, {len(report.replaced)} replaced, "
        f"{len(report.skipped)} skipped (there already)"
    )
