"""``mst report``: predictions with their evidence as one page."""

from pathlib import Path
from typing import Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, note, progress


def report(
    predictions: Annotated[list[Path], typer.Argument(help="Predictions of mst query (.h5ad).")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The .html to write [default: the first one's name, here].")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Title of the page [default: names the slides].")] = "",
    reference: options.RecordedReference = None,
    storage_option: options.StorageOption = None,
    image_px: Annotated[
        int, typer.Option("--image-px", min=256, max=16_000, help="Longer side of the slides' picture, in pixels.")
    ] = 4096,
    patches: Annotated[
        int, typer.Option("--patches", min=0, max=20_000, help="Neighbours' patches to keep; 0 for none.")
    ] = 1500,
    force: options.Force = False,
) -> None:
    """Write one page to pan, zoom and click: any gene over the slide, and each spot's neighbours.

    The page is one file and needs no internet. Several predictions stand side by side, with one choice of gene.

    Example: mst report slide.h5ad -o slide.html
    """
    from mclstexp.outputs.report import report as write_report

    access = options.storage_beside(storage_option, reference)
    path = write_report(
        list(predictions),
        output or Path(f"{predictions[0].stem}.html"),
        title=title,
        reference=reference,
        storage_options=access,
        image_px=image_px,
        patches=patches,
        force=force,
        on_progress=progress(),
    )
    note(f"{path.stat().st_size / 1e6:.1f} MB; open it in a browser")
    emit(str(path))
