"""``mst build-index`` and ``mst add``: slides into a reference."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, progress


def build_index(
    refs: options.Refs,
    model: Annotated[Path, typer.Option("--model", help="Model folder made by mst train.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The reference folder to write.")],
    slides: options.Only = None,
    mpp: options.Mpp = None,
    index: Annotated[
        str, typer.Option("--index", help="auto (by size), exact, or an inverted-file kind; see docs/store.md.")
    ] = "auto",
    device: options.Device = "auto",
    cache: options.Cache = None,
    force: options.Force = False,
) -> None:
    """Encode slides with a model and write them as a reference: a LanceDB table and a search index."""
    options.check_device(device)
    from mclstexp.data.readers import read_slides
    from mclstexp.files import check_output
    from mclstexp.index.pipeline import BuildOptions, build_reference
    from mclstexp.model.folder import load_model
    from mclstexp.model.model import EncoderPair

    check_output(output, force=force)
    files = load_model(model)
    encoders = EncoderPair.from_files(files, device=device, cache=options.feature_cache(cache))  # type: ignore[arg-type]
    found = read_slides(refs, mpp=mpp, only=options.names(slides))
    without = sum(slide.image is None for slide in found)
    if without:
        note(f"{without} of {len(found)} slides have no image: their keys are their spot embeddings alone.")
    build = BuildOptions(index=index, command=command_line(), force=force, on_slide=_encoding)
    store = build_reference(output, found, files, encoders, build)
    note(f"{len(found)} slides, {store.n_spots} spots, {len(store.genes)} genes; version {store.version}")
    emit(str(output))


def add(
    refs: options.Refs,
    reference: options.Reference,
    slides: options.Only = None,
    mpp: options.Mpp = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let a slide of the same name and other content take the old one's place.")
    ] = False,
    device: options.Device = "auto",
    cache: options.Cache = None,
    as_json: options.AsJson = False,
) -> None:
    """Add slides to a reference: they alone are encoded, nothing is trained or encoded again."""
    options.check_device(device)
    from mclstexp.data.readers import read_slides
    from mclstexp.index.pipeline import add_slides, reference_model
    from mclstexp.index.store.store import ReferenceStore

    store = ReferenceStore.open(reference)
    _, encoders = reference_model(store, device=device, cache=options.feature_cache(cache))  # type: ignore[arg-type]
    found = read_slides(refs, mpp=mpp, only=options.names(slides))
    report = add_slides(reference, found, encoders, replace=replace, command=command_line(), on_slide=_encoding)
    for name, same in report.duplicates.items():
        note(f"Warning: slide {name} has the content of {', '.join(same)}: probably the same slide under another name.")
    for text in report.notes:
        note(text)
    if as_json:
        emit_json(vars(report))
        return
    emit(
        f"version {report.version}: {len(report.added)} added, {len(report.replaced)} replaced, "
        f"{len(report.skipped)} skipped (there already)"
    )


def command_line() -> str:
    """Return the command as it was typed, for the reference's history."""
    return shlex.join(["mst", *sys.argv[1:]])


def _encoding(slide_id: str) -> "options.Progress | None":
    return progress(f"encoding {slide_id}")
