"""``mst neighbours``: the reference spots that one spot's prediction was made from."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, table

if TYPE_CHECKING:
    import pandas as pd

    from mclstexp.outputs.evidence import SpotEvidence

_TOP, _GROUPS = 20, 10
_COLUMNS = ("rank", "similarity", "weight", "value", "contribution", "patient", "slide", "spot", "label", "cohort",
            "x_px", "y_px")  # fmt: skip


def neighbours(
    prediction: Annotated[Path, typer.Argument(help="A prediction of mst query (.h5ad, its Parquet beside it).")],
    spot: Annotated[str, typer.Argument(help="Id of a spot of the query slide.")],
    gene: Annotated[
        str | None,
        typer.Option("--gene", "-g", help="Any gene of the reference: its value at each neighbour and what it adds."),
    ] = None,
    by: Annotated[
        Literal["slide", "patient", "cohort"] | None,
        typer.Option("--by", help="List these, summed, in place of single neighbours."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", "-n", min=1, help=f"How many, the most similar first [default: {_TOP}; all with --json or --csv]."
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="Draw the spot's patch beside its neighbours' (.png, .pdf, .svg); 12 unless -n."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="PATH",
            help="The reference, for --gene and --sheet: folder or URI [default: the folder that was recorded].",
        ),
    ] = None,
    storage_option: options.StorageOption = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Version or tag of the reference [default: what was recorded].")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Where images of reference slides are that have moved, for --sheet.")
    ] = None,
    as_json: options.AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    force: options.Force = False,
) -> None:
    """Show what a spot's prediction was made from: its reference spots, and whose they are.

    Example: mst neighbours slide.h5ad 10x15
    """
    from mclstexp.data.apart.worker import try_ahead

    try_ahead(prediction)
    from mclstexp.outputs.evidence.spot import spot_evidence
    from mclstexp.predict.formats.tables import write_csv
    from mclstexp.predict.prediction import Prediction

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv are two ways to print the same; leave one out.", param_hint="--csv")
    if sheet is not None:
        from mclstexp.outputs.maps.style import check_picture

        check_picture(sheet, force=force)
    whole = Prediction.load(prediction)
    opened = None
    if gene is not None or sheet is not None:
        from mclstexp.outputs.origin import reference_of

        number = options.version_or_tag(version)
        access = options.storage_beside(storage_option, reference)
        opened = reference_of(whole, reference, version=number, beside=prediction.parent, storage_options=access)
    evidence = spot_evidence(whole, spot, gene, opened)
    if sheet is not None and opened is not None:
        from mclstexp.outputs.evidence.sheet import evidence_sheet

        n = top or 12
        evidence_sheet(whole, spot, sheet, reference=opened, gene=gene, n=n, images=images, beside=prediction.parent,
                       force=force)  # fmt: skip
        note(f"sheet: {sheet}")
    if as_json:
        emit_json(evidence.to_json(top))
    elif as_csv:
        chosen = evidence.neighbours if by is None else evidence.sums[by]
        text = io.StringIO()
        write_csv(chosen if top is None else chosen.head(top), text)
        emit(text.getvalue().rstrip("\n"))
    else:
        _emit_text(evidence, by, top or _TOP)


def _emit_text(evidence: "SpotEvidence", by: Literal["slide", "patient", "cohort"] | None, top: int) -> None:
    emit("\n".join(evidence.sentences()))
    if by is None:
        emit(f"\n{_lines(evidence.neighbours, top)}")
        if top < len(evidence.neighbours):
            n = len(evidence.neighbours)
            note(f"{top} of {n} neighbours of {evidence.spot}; --top {n} lists all.")
    for name, sums in reversed(evidence.sums.items()):
        if by in (None, name):
            shown = min(len(sums), _GROUPS) if by is None else len(sums)
            more = f"\nand {len(sums) - shown} more: --by {name}" if shown < len(sums) else ""
            emit(f"\n{_lines(sums, shown)}{more}")


def _lines(frame: "pd.DataFrame", top: int) -> str:
    flat = frame.reset_index()
    columns = [name for name in _COLUMNS if name in flat] if "rank" in flat else list(flat.columns)
    if "label" in columns and not flat["label"].notna().any():
        columns.remove("label")
    rows = [[_plain(value) for value in row] for row in flat[columns].head(top).itertuples(index=False)]
    return table(columns, rows)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return None if value != value else float(value)
    return value if isinstance(value, int) else (str(value) if value is not None else None)
