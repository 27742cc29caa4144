"""``mst plot``: pictures of a prediction."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit

if TYPE_CHECKING:
    from mclstexp.predict.prediction import Prediction

What = Literal["expression", "uncertainty", "familiarity", "cohorts", "embedding"]


def plot(
    prediction: Annotated[Path, typer.Argument(help="A prediction of mst query (.h5ad).")],
    gene: Annotated[
        list[str] | None, typer.Option("--gene", "-g", help="Symbol or Ensembl id; may be repeated, a row each.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .png, .pdf or .svg to write [default: SLIDE-GENE.png, here]."),
    ] = None,
    what: Annotated[
        What,
        typer.Option("--what", help="What to draw: genes, or for the whole slide what its prediction comes from."),
    ] = "expression",
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth", help="Raw counts of the same slide, drawn beside it: .h5ad, or slides as mst check reads."
        ),
    ] = None,
    truth_slide: Annotated[
        str | None, typer.Option("--truth-slide", help="Which slide of --truth, where it holds several.")
    ] = None,
    by: Annotated[
        Literal["cohort", "patient", "slide"], typer.Option("--by", help="Whose weights --what cohorts sums.")
    ] = "cohort",
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="PATH",
            help="The reference, for --what embedding: folder or URI [default: the folder that was recorded].",
        ),
    ] = None,
    storage_option: options.StorageOption = None,
    dpi: Annotated[int, typer.Option("--dpi", min=50, max=1200, help="Pixels an inch.")] = 200,
    seed: options.Seed = 0,
    force: options.Force = False,
) -> None:
    """Draw genes over the slide, how sure they are, and where the prediction comes from, for the screen or for print.

    Example: mst plot slide.h5ad --gene ERBB2
    """
    from mclstexp.data.apart.worker import try_ahead

    try_ahead(prediction)
    from mclstexp.outputs.maps.style import check_picture
    from mclstexp.predict.prediction import Prediction

    _check_options(gene, what, truth, by)
    access = options.storage_beside(storage_option, reference)
    output = check_picture(output or _default_name(prediction, gene, what), force=force)
    whole = Prediction.load(prediction)
    if what in ("expression", "uncertainty"):
        _genes(whole, gene or [], output, what, truth, truth_slide, dpi)
    elif what == "familiarity":
        from mclstexp.outputs.maps.fields import field_maps

        field_maps(whole, output, dpi=dpi, force=True)
    elif what == "cohorts":
        from mclstexp.outputs.maps.contributions import contribution_map

        contribution_map(whole, output, by=by, dpi=dpi, force=True)
    else:
        from mclstexp.outputs.maps.embedding import embedding_map
        from mclstexp.outputs.origin import reference_of

        opened = reference_of(whole, reference, beside=prediction.parent, storage_options=access)
        embedding_map(whole, opened, output, seed=seed, dpi=dpi, force=True)
    emit(str(output))


def _check_options(gene: list[str] | None, what: What, truth: Path | None, by: str) -> None:
    """Refuse options that would do nothing."""
    of_genes = what in ("expression", "uncertainty")
    if of_genes and not gene:
        raise typer.BadParameter(f"--what {what} draws genes: name one, for example --gene ERBB2.", param_hint="--gene")
    if not of_genes and gene:
        raise typer.BadParameter(f"--what {what} draws no gene; leave --gene out.", param_hint="--gene")
    if truth is not None and what != "expression":
        raise typer.BadParameter(
            f"--what {what} has nothing that was measured; leave --truth out.", param_hint="--truth"
        )
    if by != "cohort" and what != "cohorts":
        raise typer.BadParameter("--by goes with --what cohorts.", param_hint="--by")


def _default_name(prediction: Path, gene: list[str] | None, what: What) -> Path:
    parts = [name.replace("/", "_") for name in (gene or [])[:3]]
    parts += [f"{len(gene) - 3}-more"] if gene and len(gene) > 3 else []
    parts += [what] if what != "expression" else []
    return Path(f"{'-'.join([prediction.stem, *parts])}.png")


def _genes(
    prediction: "Prediction",
    genes: list[str],
    output: Path,
    what: What,
    truth: Path | None,
    truth_slide: str | None,
    dpi: int,
) -> None:
    from mclstexp.outputs.maps import gene_maps
    from mclstexp.outputs.maps.truth import read_truth

    known = None if truth is None else read_truth(truth, prediction, truth_slide)
    gene_maps(prediction, genes, output, truth=known, show="uncertainty" if what == "uncertainty" else "both", dpi=dpi,
              force=True)  # fmt: skip
