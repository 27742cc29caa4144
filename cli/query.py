"""``mst query``: a slide's expression from its image and its spots' coordinates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, note, progress
from mclstexp.cli.build_index import command_line

if TYPE_CHECKING:
    from mclstexp.config import RetrievalConfig
    from mclstexp.data.positions.files import CoordsColumns


def query(
    image: Annotated[Path, typer.Argument(help="The slide's image.")],
    coords: Annotated[Path, typer.Argument(help="The spots' coordinates at full resolution: CSV, TSV or Parquet.")],
    reference: options.Reference,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .h5ad to write; its neighbours go beside it.")],
    genes: Annotated[
        str | None, typer.Option("--genes", help="Names such as ERBB2,CD3E, a file, or 'all' [default: the panel].")
    ] = None,
    k: options.K = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="softmax or inverse_square [default: the model's].")
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of the softmax weights.")] = None,
    patient: Annotated[
        str | None,
        typer.Option(
            "--patient", help="The slide's patient, if known: warns when the reference or model holds others."
        ),
    ] = None,
    exclude_patient: options.ExcludePatient = None,
    exclude_slide: options.ExcludeSlide = None,
    only_cohort: options.OnlyCohort = None,
    where: options.Where = None,
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
        str | None, typer.Option("--origin", help="center or topleft: what the coordinates point at.")
    ] = None,
    tile_px: Annotated[
        float | None, typer.Option("--tile-px", help="Side of a tile in pixels, for --origin topleft.")
    ] = None,
    units: Annotated[str | None, typer.Option("--units", help="px or um.")] = None,
    pitch_um: Annotated[float | None, typer.Option("--pitch-um", help="Distance between spots in um.")] = None,
    tissue_check: Annotated[
        bool, typer.Option(help="Refuse coordinates that miss the tissue where swapped or rescaled ones would hit it.")
    ] = True,
    device: options.Device = "auto",
    cache: options.Cache = None,
    force: options.Force = False,
) -> None:
    """Predict a slide's expression from its nearest reference spots, and write it with its neighbours."""
    options.check_device(device)
    from dataclasses import replace

    from mclstexp.data.positions.query import read_query
    from mclstexp.files import check_output
    from mclstexp.index.pipeline import QueryOptions, predict_slide, reference_model
    from mclstexp.index.store.store import ReferenceStore

    check_output(output, force=force)
    columns = _columns(x_column, y_column, id_column, origin, tile_px, units, pitch_um)
    slide = read_query(image, coords, mpp=mpp, columns=columns, check_tissue=tissue_check)
    slide = replace(slide, patient=patient or slide.patient)
    for text in slide.notes:
        note(text)
    store = ReferenceStore.open(reference, version=options.version_or_tag(version))
    _, encoders = reference_model(store, model, device=device, cache=options.feature_cache(cache))  # type: ignore[arg-type]
    found = predict_slide(
        slide,
        encoders,
        store,
        QueryOptions(
            genes=options.gene_choice(genes),  # type: ignore[arg-type]
            retrieval=_retrieval(encoders.config.retrieval, k, weights, temperature),
            filter=options.reference_filter(exclude_patient, exclude_slide, only_cohort, where),
            device=device,  # type: ignore[arg-type]
            command=command_line(),
            on_progress=progress(f"encoding {slide.slide_id}"),
        ),
    )
    for text in found.notes:
        note(text)
    found.prediction.save(output, force=force)
    emit(str(output))


def _columns(
    x: str | None,
    y: str | None,
    spot_id: str | None,
    origin: str | None,
    tile_px: float | None,
    units: str | None,
    pitch_um: float | None,
) -> "CoordsColumns":
    from mclstexp.data.positions.files import CoordsColumns

    if origin not in (None, "center", "topleft"):
        raise typer.BadParameter(f"{origin!r} is not center or topleft.", param_hint="--origin")
    if units not in (None, "px", "um"):
        raise typer.BadParameter(f"{units!r} is not px or um.", param_hint="--units")
    return CoordsColumns(x, y, spot_id, origin, tile_px, units, pitch_um)  # type: ignore[arg-type]


def _retrieval(
    config: "RetrievalConfig", k: int | None, weights: str | None, temperature: float | None
) -> "RetrievalConfig":
    from mclstexp.config import with_settings

    if k is not None and k < 1:
        raise typer.BadParameter(f"{k} neighbours are too few; at least 1 is needed.", param_hint="--k")
    if temperature is not None and temperature <= 0:
        raise typer.BadParameter(f"{temperature:g} is not positive.", param_hint="--temperature")
    changes = {"k": k, "weights": weights, "temperature": temperature}
    return with_settings(config, [f"{name}={value}" for name, value in changes.items() if value is not None])
