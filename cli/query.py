"""``mst query``: the expression of slides from their images, at given spots or on a grid."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._numbers import number
from mclstexp.config.ranges import PITCH_UM, RANGES, TILE_PX

if TYPE_CHECKING:
    from mclstexp.data.positions.grid import Grid
    from mclstexp.index.reference import Reference


def query(
    slides: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLIDE [COORDS] ...",
            help="An image, then its spots' coordinates at full resolution (CSV, TSV, Parquet) if there are any; "
            "several of these; a folder of images; a list (CSV with a column image).",
        ),
    ],
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The .h5ad to write, its neighbours beside it; a folder for several slides [default: here, by name].",
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid", help="Without coordinates: distance between points, 112um or 224px [default: the reference's]."
        ),
    ] = None,
    grid_shape: Annotated[
        Literal["square", "hex"] | None, typer.Option("--grid-shape", help="[default: square, or the reference's]")
    ] = None,
    regions: Annotated[
        Path | None, typer.Option("--regions", help="Predict inside these areas only: GeoJSON, as QuPath exports it.")
    ] = None,
    genes: Annotated[
        str | None, typer.Option("--genes", help="Names such as ERBB2,CD3E, a file, or 'all' [default: the panel].")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option("--features", help="Tiles that TRIDENT or CLAM encoded (.h5); the reference's encoder is needed."),
    ] = None,
    k: Annotated[
        int | None,
        number("-k", "--k", limits=RANGES["retrieval.k"], help="Neighbours per spot [default: the model's]."),
    ] = None,
    weights: Annotated[
        Literal["softmax", "inverse_square"] | None,
        typer.Option("--weights", help="How neighbours are weighed [default: the model's]."),
    ] = None,
    temperature: Annotated[
        float | None, number("--temperature", limits=RANGES["retrieval.temperature"], help="Of the softmax weights.")
    ] = None,
    patient: Annotated[
        str,
        typer.Option(
            "--patient", help="The slide's patient, if known: warns when the reference or model holds others."
        ),
    ] = "",
    exclude_patient: Annotated[
        list[str] | None,
        typer.Option("--exclude-patient", help="Take no neighbour from this patient; may be repeated."),
    ] = None,
    exclude_slide: Annotated[
        list[str] | None, typer.Option("--exclude-slide", help="Take no neighbour from this slide; may be repeated.")
    ] = None,
    only_cohort: Annotated[
        list[str] | None, typer.Option("--only-cohort", help="Take neighbours from this cohort only; may be repeated.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help='SQL condition on the spot columns, e.g. "total_counts > 500".')
    ] = None,
    search: Annotated[
        Literal["faiss", "lancedb", "exact"],
        typer.Option("--search", help="What finds neighbours: faiss, LanceDB's index, or every key compared."),
    ] = "faiss",
    version: Annotated[
        str | None, typer.Option("--version", help="Version or tag of the reference [default: the newest].")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Model folder [default: the reference's own copy].")
    ] = None,
    mpp: options.Mpp = None,
    mpp_from: options.MppFrom = None,
    x_column: Annotated[str | None, typer.Option("--x-column", help="Column of x in pixels (to the right).")] = None,
    y_column: Annotated[str | None, typer.Option("--y-column", help="Column of y in pixels (downwards).")] = None,
    id_column: Annotated[str | None, typer.Option("--id-column", help="Column of the spot ids.")] = None,
    origin: Annotated[
        Literal["center", "topleft"] | None, typer.Option("--origin", help="What the coordinates point at.")
    ] = None,
    tile_px: Annotated[
        float | None, number("--tile-px", limits=TILE_PX, help="Side of a tile in pixels, for --origin topleft.")
    ] = None,
    units: Annotated[Literal["px", "um"] | None, typer.Option("--units", help="Of the coordinates.")] = None,
    pitch_um: Annotated[
        float | None, number("--pitch-um", limits=PITCH_UM, help="Distance between spots in um.")
    ] = None,
    tissue_check: Annotated[
        bool,
        typer.Option(
            help="Refuse coordinates that miss the tissue where others would fit it; lay a grid on tissue alone."
        ),
    ] = True,
    ray: options.Ray = None,
    workers: options.RayWorkers = None,
    dry_run: options.DryRun = False,
    device: options.Device = "auto",
    cache: options.Cache = None,
    force: options.Force = False,
) -> None:
    """Predict a slide's expression from its nearest reference spots, and write it with its neighbours.

    Without coordinates a grid is laid over the tissue. Several slides share the loaded model: what is there already
    from the same inputs is skipped, and a slide that fails is told at the end.

    Example: mst query slide.tif coords.csv
    """
    from mclstexp.cli._queries import Job, Queries, Reading, plan_outputs
    from mclstexp.cli._query_workers import Spread
    from mclstexp.data.positions.files import CoordsColumns
    from mclstexp.data.positions.inputs import find_inputs
    from mclstexp.data.tile_features import read_features
    from mclstexp.index.filter import Filter
    from mclstexp.model.model import Model

    if tile_px is not None and features is None and origin != "topleft":
        raise typer.BadParameter("it goes with --origin topleft or --features.", param_hint="--tile-px")
    side = tile_px if features is None else None
    columns = CoordsColumns(x_column, y_column, id_column, origin, side, units, pitch_um)
    inputs = find_inputs(slides)
    _refuse_cluster(ray, workers, several=inputs.several, features=features is not None)
    has_coords = [one.coords is not None for one in inputs.slides]
    if features is not None:
        told = any(has_coords) or columns != CoordsColumns() or bool(grid or grid_shape or regions)
        _refuse_positions(told=told, several=inputs.several)
    else:
        _refuse_idle_options(has_coords, grid=bool(grid or grid_shape), columns=columns != CoordsColumns())
    jobs = [Job(one, path) for one, path in zip(inputs.slides, plan_outputs(inputs, output, force=force), strict=True)]
    opened = options.open_reference(
        None, reference, storage_option=storage_option, version=version, device=device, cache=cache
    )
    condition, chosen = (
        Filter(tuple(exclude_patient or ()), tuple(exclude_slide or ()), tuple(only_cohort or ()), where),
        options.gene_choice(genes),
    )
    opened.check_query(genes=chosen, filter=condition)  # type: ignore[arg-type]
    if model is not None:
        opened.use_model(Model.load(model, device=device, cache=options.cache_of(cache)))
    reading = Reading(
        mpp=mpp,
        mpp_from=mpp_from,
        columns=columns,
        check_tissue=tissue_check,
        patient=patient,
        grid=_grid(opened, grid, grid_shape),
        regions=regions,
        tiles=None if features is None else read_features(features, tile_px=tile_px),
    )
    asked: dict[str, Any] = {"genes": chosen, "filter": condition, "search": search, "k": k, "weights": weights}
    asked["temperature"] = temperature
    spread = None
    if ray is not None:
        store: dict[str, Any] = {"path": opened.path, "version": opened.version, "device": device}
        store |= {"cache": options.cache_of(cache), "storage_options": opened.store.place.options or None}
        spread = Spread(ray, workers, device, store, model)
    Queries(opened, jobs, inputs.several, reading, asked, force, spread=spread).run(dry=dry_run)


def _grid(opened: "Reference", pitch: str | None, shape: Literal["square", "hex"] | None) -> "Grid | None":
    """Return the grid that was asked for; what is left open is as in the reference, None for all of it."""
    from dataclasses import replace

    from mclstexp.data.positions.grid import Grid

    if pitch is not None:
        return Grid.parse(pitch, shape or "square")
    return None if shape is None else replace(opened.grid, shape=shape)


def _refuse_cluster(ray: str | None, workers: int | None, *, several: bool, features: bool) -> None:
    """Refuse a cluster for one slide, and what says something of a cluster where there is none."""
    if ray is None and workers is not None:
        raise typer.BadParameter("it goes with --ray.", param_hint="--workers")
    if ray is not None and (features or not several):
        raise typer.BadParameter("one slide is one machine's work; leave it out.", param_hint="--ray")


def _refuse_positions(*, told: bool, several: bool) -> None:
    """Refuse what says where spots lie where the tiles say it."""
    if several:
        raise typer.BadParameter("the tiles of one slide go with one image.", param_hint="--features")
    if told:
        raise typer.BadParameter(
            "the tiles' own coordinates are taken; leave coordinates, grid and regions and their options out.",
            param_hint="--features",
        )


def _refuse_idle_options(has_coords: list[bool], *, grid: bool, columns: bool) -> None:
    """Refuse options that would do nothing."""
    if grid and all(has_coords):
        raise typer.BadParameter("every slide has coordinates; leave them or the grid out.", param_hint="--grid")
    if columns and not any(has_coords):
        raise typer.BadParameter(
            "options of a coordinates file go with one, and there is none.",
            param_hint="--x-column, --y-column, --id-column, --origin, --tile-px, --units, --pitch-um",
        )
