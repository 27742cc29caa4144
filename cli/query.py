"""``mst query``: a slide's expression from its image and its spots' coordinates."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._numbers import number
from mclstexp.cli._output import emit, note, progress
from mclstexp.config.ranges import PITCH_UM, RANGES, TILE_PX


def query(
    image: Annotated[Path, typer.Argument(help="The slide's image.")],
    coords: Annotated[
        Path | None,
        typer.Argument(help="The spots' coordinates at full resolution: CSV, TSV or Parquet; not with --features."),
    ] = None,
    reference: options.ReferenceOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The .h5ad to write; its neighbours go beside it [default: the slide's name, here]."
        ),
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
        bool, typer.Option(help="Refuse coordinates that miss the tissue where swapped or rescaled ones would hit it.")
    ] = True,
    device: options.Device = "auto",
    cache: options.Cache = None,
    force: options.Force = False,
) -> None:
    """Predict a slide's expression from its nearest reference spots, and write it with its neighbours.

    Example: mst query slide.tif coords.csv
    """
    from mclstexp.data.positions.files import CoordsColumns
    from mclstexp.data.positions.query import read_query
    from mclstexp.data.tile_features import read_features
    from mclstexp.index.filter import Filter
    from mclstexp.model.model import Model
    from mclstexp.predict.evidence import neighbours_path
    from mclstexp.storage import check_output

    if tile_px is not None and features is None and origin != "topleft":
        raise typer.BadParameter("it goes with --origin topleft or --features.", param_hint="--tile-px")
    output = output or Path(f"{image.name.split('.')[0] or image.name}.h5ad")
    for path in (output, neighbours_path(output)):
        check_output(path, force=force)
    condition = Filter(tuple(exclude_patient or ()), tuple(exclude_slide or ()), tuple(only_cohort or ()), where)
    opened = options.open_reference(None, reference, version=version, device=device, cache=cache)
    side = tile_px if features is None else None
    columns = CoordsColumns(x_column, y_column, id_column, origin, side, units, pitch_um)
    tiles = None if features is None else read_features(features, tile_px=tile_px)
    if tiles is None:
        slide = read_query(image, coords, mpp=mpp, columns=columns, check_tissue=tissue_check, patient=patient)
    else:
        _refuse_coordinates(coords, told=columns != CoordsColumns())
        slide = tiles.slide(image, mpp=mpp, patient=patient)
    if model is not None:
        opened.use_model(Model.load(model, device=device, cache=options.cache_of(cache)))
    prediction = opened.query(
        slide,
        genes=options.gene_choice(genes),  # type: ignore[arg-type]
        filter=condition,
        features=tiles,
        search=search,
        k=k,
        weights=weights,
        temperature=temperature,
        command=options.command_line(),
        on_progress=progress(),
    )
    prediction.save(output, force=force)
    note(f"{prediction!r} from {opened!r}")
    emit(str(output))


def _refuse_coordinates(coords: Path | None, *, told: bool) -> None:
    """Refuse what says where spots lie where the tiles say it."""
    if coords is not None or told:
        raise typer.BadParameter(
            "the tiles' own coordinates are taken; leave the file of coordinates and its options out.",
            param_hint="--features",
        )
