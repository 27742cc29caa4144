"""``mst publish``: a read-only copy of a reference for others."""

from typing import Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, progress


def publish(
    folder: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="Folder or URI of the reference that is published.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="DEST", help="A folder, s3://bucket/folder, or hf://owner/name on the hub.")
    ],
    version: options.Version = None,
    title: Annotated[str, typer.Option("--title", help="Title of the card [default: says how many spots].")] = "",
    description: Annotated[str, typer.Option("--description", help="What the card says below its title.")] = "",
    licence: Annotated[
        str, typer.Option("--licence", help="Such as cc-by-4.0, or any text: what others may do with it.")
    ] = "",
    without_counts: Annotated[
        bool,
        typer.Option(
            "--without-counts", help="Leave raw counts out; the panel's expression stays, on the model's scale."
        ),
    ] = False,
    without_images: Annotated[
        bool, typer.Option("--without-images", help="Leave out embeddings and hashes of the slides' own images.")
    ] = False,
    rename_patients: Annotated[
        bool,
        typer.Option(
            "--rename-patients", help="Call patients patient-001, ..., and slides whose names hold a patient's, too."
        ),
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="On the hub: make a dataset that you alone can see.")
    ] = False,
    storage_option: options.StorageOption = None,
    dry_run: options.DryRun = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what was published there from another reference.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Publish one version of a reference, read-only, with a card made from its contents.

    Others use it with --reference hf://owner/name or https://host/folder, or copy it with mst fetch reference.
    Paths, commands and messages are left out. A run that was stopped goes on; nothing is uploaded twice.

    Example: mst publish reference/ shared/ --licence cc-by-4.0
    """
    places = [options.place_of(folder), options.place_of(target)]
    access = {
        str(place): options.storage(storage_option, place) if isinstance(place, str) else None for place in places
    }
    if storage_option and not any(isinstance(place, str) for place in places):
        options.storage(storage_option, places[0])
    from mclstexp.index.reference import Reference

    opened = Reference.open(
        places[0],
        version=options.version_or_tag(version),
        storage_options=access[str(places[0])],
        on_progress=progress(),
    )
    done = opened.publish(
        target,
        title=title,
        description=description,
        licence=licence,
        without_counts=without_counts,
        without_images=without_images,
        rename_patients=rename_patients,
        private=private,
        force=force,
        dry_run=dry_run,
        storage_options=access[str(places[1])],
        on_progress=progress(),
    )
    if as_json:
        emit_json(vars(done))
        return
    if dry_run:
        emit(done.card)
        note(f"nothing was written; the card would be {target}/README.md")
        return
    note(f"{done.n_files} files, {done.n_bytes / 1e6:,.1f} MB; {done.sent} written, {done.kept} there already")
    emit(target)
