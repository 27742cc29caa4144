"""``mst plot``: a gene's expected expression over the slide."""

from pathlib import Path
from typing import Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit


def plot(
    prediction: Annotated[Path, typer.Argument(help="A prediction of mst query (.h5ad).")],
    gene: Annotated[str, typer.Option("--gene", "-g", help="Symbol or Ensembl id.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The PNG to write [default: SLIDE-GENE.png, here].")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Raw counts (.h5ad) of the same spots, drawn beside it.")
    ] = None,
    force: options.Force = False,
) -> None:
    """Draw a gene's expected expression over the slide as a PNG.

    Example: mst plot slide.h5ad --gene ERBB2
    """
    from mclstexp.data.anndata_file import read_anndata
    from mclstexp.outputs.maps import gene_map

    output = output or Path(f"{prediction.stem}-{gene.replace('/', '_')}.png")
    measured = None if truth is None else read_anndata(truth)
    gene_map(read_anndata(prediction), gene, output, truth=measured, force=force)
    emit(str(output))
