"""``mst export``: a prediction, or a reference's spots, as other programs read them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, note, progress


def export(
    prediction: Annotated[
        Path | None, typer.Argument(help="A prediction of mst query (.h5ad); without it, the reference is exported.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="What to write: .zarr, .geojson, .csv, .parquet or .h5ad [default: the prediction's name as .zarr].",
        ),
    ] = None,
    format: Annotated[
        Literal["spatialdata", "wsidata", "geojson", "csv", "parquet", "h5ad"] | None,
        typer.Option("--format", help="Where the suffix does not say it; wsidata is LazySlide's .zarr."),
    ] = None,
    genes: Annotated[
        str | None, typer.Option("--genes", help="Names such as ERBB2,CD3E, or a file [default: all].")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Of tables and GeoJSON: mean,sd,lower,upper,retrieved [default: mean]."),
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="The slide's image: into SpatialData as a pyramid.")
    ] = None,
    object_type: Annotated[
        Literal["detection", "annotation", "tile"] | None,
        typer.Option("--object-type", help="What QuPath makes of a spot [default: detection]."),
    ] = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    version: options.Version = None,
    exclude_patient: Annotated[
        list[str] | None, typer.Option("--exclude-patient", help="Of a reference: not this patient; may be repeated.")
    ] = None,
    exclude_slide: Annotated[
        list[str] | None, typer.Option("--exclude-slide", help="Of a reference: not this slide; may be repeated.")
    ] = None,
    only_cohort: Annotated[
        list[str] | None, typer.Option("--only-cohort", help="Of a reference: this cohort only; may be repeated.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help='Of a reference: SQL condition, e.g. "total_counts > 500".')
    ] = None,
    force: options.Force = False,
) -> None:
    """Write a prediction for SpatialData, QuPath, LazySlide, R or a spreadsheet, or a reference as .h5ad or .parquet.

    Example: mst export slide.h5ad -o slide.geojson --genes ERBB2,CD3E
    """
    of_prediction = {"--format": format, "--layers": layers, "--image": image, "--object-type": object_type}
    of_reference = {
        "--reference": reference if options.typed(reference, "MST_REFERENCE") else None,
        "--storage-option": storage_option or None,
        "--version": version,
        "--exclude-patient": exclude_patient,
        "--exclude-slide": exclude_slide,
        "--only-cohort": only_cohort,
        "--where": where,
    }
    if prediction is not None:
        _refuse(of_reference, "a reference, and a prediction is named")
        _export_prediction(prediction, output, format, genes, layers, image, object_type, force)
        return
    _refuse(of_prediction, "a prediction, and none is named")
    if output is None:
        raise typer.BadParameter("an export of a reference needs -o: a .h5ad or .parquet.", param_hint="--output")
    from mclstexp.index.filter import Filter

    condition = Filter(tuple(exclude_patient or ()), tuple(exclude_slide or ()), tuple(only_cohort or ()), where)
    opened = options.open_reference(None, reference, storage_option=storage_option, version=version)
    names = options.gene_choice(genes)
    n_spots = opened.export(
        output, filter=condition, genes=None if names == "all" else names, force=force, on_progress=progress()
    )
    note(f"{n_spots:,} spots of {opened!r}")
    emit(str(output))


def _export_prediction(
    prediction: Path,
    output: Path | None,
    format: str | None,
    genes: str | None,
    layers: str | None,
    image: Path | None,
    object_type: str | None,
    force: bool,
) -> None:
    from mclstexp.outputs.export import export as write

    names = options.gene_choice(genes)
    written = write(
        prediction,
        output or Path(f"{prediction.stem}.zarr"),
        format=format,  # type: ignore[arg-type]
        genes=None if names == "all" else names,
        layers=options.names(layers, "--layers"),
        image=image,
        object_type=object_type,  # type: ignore[arg-type]
        force=force,
    )
    emit(str(written))


def _refuse(given: Mapping[str, object], what: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise typer.BadParameter(f"it is of use for {what}; leave it out.", param_hint=name)
