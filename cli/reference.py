"""Commands that look after a reference: remove, cohorts, info, verify, history, restore, tag, optimize."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, progress, table
from mclstexp.text import counted

if TYPE_CHECKING:
    from mclstexp.index.verify.findings import Finding

UNREPAIRED = 1


def remove(
    folder: options.ReferenceArgument = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    slide: Annotated[list[str] | None, typer.Option("--slide", help="Remove this slide; may be repeated.")] = None,
    patient: Annotated[
        list[str] | None, typer.Option("--patient", help="Remove this patient's slides; may be repeated.")
    ] = None,
    cohort: Annotated[
        list[str] | None, typer.Option("--cohort", help="Remove this cohort's slides; may be repeated.")
    ] = None,
    message: options.Message = "",
    as_json: options.AsJson = False,
) -> None:
    """Remove slides from a reference. Earlier versions keep them; mst restore brings them back.

    Example: mst remove --patient B
    """
    opened = options.open_reference(folder, reference, storage_option=storage_option)
    names = opened.remove(
        slides=slide or (),
        patients=patient or (),
        cohorts=cohort or (),
        message=message,
        command=options.command_line(),
    )
    if as_json:
        values = {"version": opened.version, "removed": names, "n_spots": len(opened), "n_slides": len(opened.slides)}
        emit_json(values)
        return
    what = f"{counted(len(names), 'slide')} removed ({', '.join(names)})"
    emit(f"version {opened.version}: {what}; {counted(len(opened), 'spot')} remain")


def cohorts(
    folder: options.ReferenceArgument = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    version: options.Version = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a reference's cohorts, patients and slides, with spots, genes, dates and sizes.

    Example: mst cohorts reference/
    """
    tree = options.open_reference(folder, reference, storage_option=storage_option, version=version).cohorts()
    if as_json:
        emit_json(tree)
        return
    rows: list[list[object]] = []
    for cohort in tree:
        n_slides = sum(len(patient["slides"]) for patient in cohort["patients"])
        size = f"{counted(len(cohort['patients']), 'patient')}, {counted(n_slides, 'slide')}"
        title = f"{cohort['cohort'] or '(no cohort)'}: {size}"
        rows.append([title, cohort["spots"], cohort["genes"], cohort["last_added"][:10], _size(cohort["bytes"])])
        for patient in cohort["patients"]:
            rows.append(
                [f"  {patient['patient'] or '(no patient)'}", patient["spots"], "", "", _size(patient["bytes"])]
            )
            for slide in patient["slides"]:
                name = f"    {slide['slide']}{'' if slide['image'] else ' (no image)'}"
                rows.append([name, slide["spots"], slide["genes"], slide["added"][:10], _size(slide["bytes"])])
    emit(table(["cohort / patient / slide", "spots", "genes", "added", "size"], rows))


def info(
    folder: options.ReferenceArgument = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    version: options.Version = None,
    genes: Annotated[bool, typer.Option("--genes", help="List every gene that can be asked for, a line each.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what a reference is: model, panel, settings, size, index, disk use.

    Example: mst info reference/
    """
    opened = options.open_reference(folder, reference, storage_option=storage_option, version=version)
    if genes:
        pairs = list(zip(opened.genes.symbols, opened.genes.ensembl, strict=True))
        if as_json:
            emit_json([{"symbol": symbol, "ensembl": identifier} for symbol, identifier in pairs])
        else:
            emit("\n".join(f"{symbol}\t{identifier}".rstrip() for symbol, identifier in pairs))
        return
    values = opened.info()
    if as_json:
        emit_json(values)
        return
    slides, with_image = counted(values["n_slides"], "slide"), values["n_with_image"]
    tags = "".join(f", tag {name}" for name in values["tags"])
    lines = [
        ("reference", values["path"]),
        ("version", f"{values['version']} of {values['time']} ({values['message']}){tags}"),
        ("holds", f"{counted(values['n_spots'], 'spot')} of {slides} ({with_image} with image)"),
        ("from", f"{counted(values['n_patients'], 'patient')} of {counted(values['n_cohorts'], 'cohort')}"),
        ("genes", f"{values['n_genes']} measured (--genes lists them); the panel has {values['panel']['n_genes']}"),
        ("model", f"{values['model'][:12]}, embeddings of {values['embed_dim']}"),
        *((f"  {name}", _plain(value)) for name, value in sorted(values["settings"].items())),
        *(("index", _index_line(part)) for part in values["index"]),
        ("disk", ", ".join(f"{name} {_size(size)}" for name, size in values["bytes"].items() if size)),
    ]
    width = max(len(name) for name, _ in lines)
    emit("\n".join(f"{name.ljust(width)}  {value}" for name, value in lines))


def verify(
    folder: options.ReferenceArgument = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be derived, and remove what killed writers left.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Check everything in a reference: hashes, rows, vectors, genes, index, copies, history, orphans.

    Example: mst verify reference/
    """
    from mclstexp.index.reference import Reference

    place = options.reference_place(folder, reference)
    access = options.storage(storage_option, place)
    if repair and isinstance(place, str):
        note("an object store has no locks: a repair is safe only while nobody writes to the reference")
    report = Reference.verify(place, repair=repair, storage_options=access, on_progress=progress())
    if as_json:
        emit_json({**vars(report), "ok": report.ok, "findings": [vars(finding) for finding in report.findings]})
    else:
        for finding in report.findings:
            emit(_finding_line(finding))
        numbers = {"file": report.n_files, "slide": report.n_slides, "spot": report.n_spots}
        size = ", ".join(counted(n, noun) for noun, n in numbers.items())
        emit(f"version {report.version}: {size}: {'whole' if report.ok else 'NOT whole'}")
    if not report.ok:
        if not repair:
            note("mst verify --repair mends what can be derived; mst restore goes back to a whole version")
        raise typer.Exit(UNREPAIRED)


def history(
    folder: options.ReferenceArgument = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    as_json: options.AsJson = False,
) -> None:
    """List every version of a reference: when, why, and the command that made it.

    Example: mst history reference/
    """
    rows = options.open_reference(folder, reference, storage_option=storage_option).history()
    if as_json:
        emit_json(rows)
        return
    header = ["version", "time", "slides", "spots", "tags", "message", "command"]
    emit(table(header, [[" ".join(row[k]) if k == "tags" else row[k] for k in header] for row in rows]))


def restore(
    version: Annotated[str, typer.Argument(help="Version to make the newest, by number or tag.")],
    folder: options.ReferenceArgument = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    message: options.Message = "",
    as_json: options.AsJson = False,
) -> None:
    """Make an earlier version of a reference the newest. It becomes a version of its own; nothing is lost.

    Example: mst restore 3
    """
    opened = options.open_reference(folder, reference, storage_option=storage_option)
    opened.restore(version, message=message, command=options.command_line())
    if as_json:
        emit_json({"version": opened.version, "restored": version, "n_spots": len(opened)})
        return
    holds = f"{counted(len(opened.slides), 'slide')}, {counted(len(opened), 'spot')}"
    emit(f"version {opened.version} is version {version} again: {holds}")


def tag(
    name: Annotated[str | None, typer.Argument(help="Name of the tag; without it, the tags are listed.")] = None,
    folder: options.ReferenceArgument = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    version: Annotated[str | None, typer.Option("--version", help="Version to name [default: the newest].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Move a tag that exists.")] = False,
    forget: Annotated[bool, typer.Option("--remove", help="Remove the tag; its version stays.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Give a version of a reference a name, for --version and mst restore; list the names without one.

    Example: mst tag paper-figures
    """
    if name is None and (forget or force or version is not None):
        raise typer.BadParameter("without the name of a tag, tags are only listed; name one.", param_hint="NAME")
    opened = options.open_reference(folder, reference, storage_option=storage_option)
    if name is None:
        tags = opened.tags
        if as_json:
            emit_json(tags)
        else:
            emit(table(["tag", "version"], [[tagged, number] for tagged, number in sorted(tags.items())]))
        return
    if forget:
        number = opened.untag(name)
        if as_json:
            emit_json({"removed": name, "version": number})
            return
        emit(f"removed tag {name} of version {number}")
        return
    number = opened.tag(name, options.version_or_tag(version), force=force)
    if as_json:
        emit_json({"tag": name, "version": number})
        return
    emit(f"{name} is version {number}")


def optimize(
    folder: options.ReferenceArgument = None,
    reference: options.ReferenceOption = None,
    storage_option: options.StorageOption = None,
    table_index: Annotated[
        bool, typer.Option("--table-index", help="Build LanceDB's own index, too, for mst query --search lancedb.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Join what many adds left in small pieces, and build the search index anew. The answers stay.

    Example: mst optimize reference/
    """
    opened = options.open_reference(folder, reference, storage_option=storage_option)
    opened.optimize(table_index=table_index, command=options.command_line())
    index = opened.info()["index"]
    if as_json:
        emit_json({"version": opened.version, "n_spots": len(opened), "index": index})
        return
    emit(f"version {opened.version}: {counted(len(opened), 'spot')}, {'; '.join(map(_index_line, index))}")


def _size(n_bytes: int) -> str:
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return str(value)


def _index_line(part: dict[str, Any]) -> str:
    if part["recall"] is None:
        return f"{part['kind']}, {part['n_rows']} spots"
    reached = f"recall {part['recall']:.4f} at {part['recall_k']} with nprobe {part['nprobe']}"
    return f"{part['kind']}, {part['n_rows']} spots, {reached}"


def _finding_line(finding: "Finding") -> str:
    state = "repaired" if finding.repaired else finding.level
    return f"{state}: {finding.path + ': ' if finding.path else ''}{finding.message}"
