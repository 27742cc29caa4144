"""``mst fetch``: public slides, ready to be read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, progress, table
from mclstexp.cli._speaking import speaking

if TYPE_CHECKING:
    from mclstexp.data.fetch import FetchedFiles

app = typer.Typer(help="Fetch public slides, ready for mst check and mst build-index.", no_args_is_help=True)

DryRun = Annotated[bool, typer.Option("--dry-run", help="List files and bytes; fetch nothing.")]


@app.command("her2st")
@speaking
def her2st(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to fill.")] = Path("refs/her2st"),
    source: Annotated[
        Path | None, typer.Option("--from", help="A folder with a copy of the repository, in place of the network.")
    ] = None,
    slides: options.Only = None,
    revision: Annotated[str, typer.Option("--revision", help="Commit, tag or branch of the repository.")] = "HEAD",
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", envvar="MST_GITHUB", help="A mirror of GitHub's list and files.")
    ] = None,
    dry_run: DryRun = False,
    force: options.Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Fetch the HER2+ breast cancer cohort (Andersson et al. 2021) from github.com/almaan/her2st.

    Every file is checked by its hash. A run that was interrupted goes on where it stopped.

    Example: mst fetch her2st --slides C2,C3,C5,C6
    """
    from mclstexp.data.fetch import fetch_her2st

    done = fetch_her2st(
        output,
        source=source,
        slides=options.names(slides, "--slides"),
        revision=revision,
        endpoint=endpoint,
        dry_run=dry_run,
        force=force,
        on_progress=progress(),
    )
    _tell(done, dry_run, as_json)


@app.command("hest")
@speaking
def hest(
    organ: Annotated[str | None, typer.Option("--organ", help="Such as Breast, Kidney, Skin.")] = None,
    species: Annotated[str | None, typer.Option("--species", help="Such as 'Homo sapiens'.")] = None,
    technology: Annotated[str | None, typer.Option("--technology", help="Such as Visium, Xenium.")] = None,
    oncotree: Annotated[str | None, typer.Option("--oncotree", help="OncoTree code, such as IDC.")] = None,
    ids: Annotated[str | None, typer.Option("--ids", help="Samples by name, comma-separated.")] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="With the whole-slide images.")] = True,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to fill.")] = Path("refs/hest"),
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", envvar="HF_ENDPOINT", help="Another hub than huggingface.co.")
    ] = None,
    dry_run: DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Fetch samples of HEST-1k from the Hugging Face hub (MahmoodLab/hest); accept its licence there first.

    The token is the hub's own: hf auth login, or $HF_TOKEN. A run that was interrupted goes on where it stopped.

    Example: mst fetch hest --organ Breast --dry-run
    """
    if not any((organ, species, technology, oncotree, ids)):
        raise typer.BadParameter("all of HEST-1k is over a terabyte; choose samples.", param_hint="--organ, --ids, ...")
    from mclstexp.data.fetch import HestFilter, fetch_hest

    which = HestFilter(organ, species, technology, oncotree, tuple(options.names(ids, "--ids") or ()))
    done = fetch_hest(output, which, images=images, endpoint=endpoint, dry_run=dry_run, on_progress=progress())
    _tell(done, dry_run, as_json)


@app.command("reference")
@speaking
def reference(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="hf://owner/name, https://host/folder, s3://bucket/folder, folder.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path("reference"),
    storage_option: options.StorageOption = None,
    force: options.Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Copy a published reference (mst publish) into a folder, which can grow unless counts were left out.

    Every file is checked by its hash. A run that was interrupted goes on where it stopped.

    Example: mst fetch reference hf://owner/name -o reference/
    """
    from mclstexp.index.published.copy import fetch_reference

    place = options.place_of(address)
    manifest = fetch_reference(
        address,
        output,
        options=options.storage(storage_option, place),
        force=force,
        on_progress=progress(),
    )
    if as_json:
        emit_json({**manifest.about, "folder": str(output), "bytes": manifest.n_bytes})
        return
    note(f"{len(manifest.files)} files, {manifest.n_bytes / 1e6:,.1f} MB; next: mst info {output}")
    emit(str(output))


def _tell(done: "FetchedFiles", dry_run: bool, as_json: bool) -> None:
    if as_json:
        files = [{"path": file.path, "bytes": file.size, "sha256": file.sha256} for file in done.files]
        emit_json({"folder": str(done.folder), "fetched": done.fetched, "kept": done.kept, "files": files})
        return
    if dry_run:
        emit(table(("file", "bytes"), [(file.path, file.size) for file in done.files]))
        note(f"{len(done.files)} files, {done.size / 1e6:,.1f} MB would be in {done.folder}")
        return
    note(
        f"{done.fetched} files fetched, {done.kept} there already, {done.size / 1e6:,.1f} MB; "
        f"next: mst check {done.folder}"
    )
    emit(str(done.folder))
