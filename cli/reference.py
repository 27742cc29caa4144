"""Commands that look after a reference: remove, cohorts, info, verify, history, restore, tag, optimize."""

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, progress, table

if TYPE_CHECKING:
    from mclstexp.index.verify.findings import Finding

Version = Annotated[str | None, typer.Option("--version", help="Look at this version, by number or tag.")]
Message = Annotated[str, typer.Option("--message", "-m", help="What the history says about this change.")]
UNREPAIRED = 1


def remove(
    reference: options.Reference,
    slide: Annotated[list[str] | None, typer.Option("--slide", help="Remove this slide; may be repeated.")] = None,
    patient: Annotated[
        list[str] | None, typer.Option("--patient", help="Remove this patient's slides; may be repeated.")
    ] = None,
    cohort: Annotated[
        list[str] | None, typer.Option("--cohort", help="Remove this cohort's slides; may be repeated.")
    ] = None,
    message: Message = "",
    as_json: options.AsJson = False,
) -> None:
    """Remove slides from a reference. Earlier versions keep them; mst restore brings them back."""
    from mclstexp.index.store.store import ReferenceStore

    store = ReferenceStore.open(reference)
    gone = store.remove(
        slides=slide or (), patients=patient or (), cohorts=cohort or (), message=message, command=_command()
    )
    names = [entry.slide_id for entry in gone]
    if as_json:
        emit_json(
            {"version": store.version, "removed": names, "n_spots": store.n_spots, "n_slides": len(store.entries)}
        )
        return
    emit(f"version {store.version}: {len(names)} slides removed ({', '.join(names)}); {store.n_spots} spots remain")


def cohorts(reference: options.Reference, version: Version = None, as_json: options.AsJson = False) -> None:
    """Show a reference's cohorts, patients and slides, with spots, genes, dates and sizes."""
    from mclstexp.index.store.store import ReferenceStore
    from mclstexp.index.store.summary import cohort_tree

    tree = cohort_tree(ReferenceStore.open(reference, version=options.version_or_tag(version)))
    if as_json:
        emit_json(tree)
        return
    rows: list[list[object]] = []
    for cohort in tree:
        n_slides = sum(len(patient["slides"]) for patient in cohort["patients"])
        title = f"{cohort['cohort'] or '(no cohort)'}: {len(cohort['patients'])} patients, {n_slides} slides"
        rows.append([title, cohort["spots"], cohort["genes"], cohort["last_added"][:10], _size(cohort["bytes"])])
        for patient in cohort["patients"]:
            rows.append(
                [f"  {patient['patient'] or '(no patient)'}", patient["spots"], "", "", _size(patient["bytes"])]
            )
            for slide in patient["slides"]:
                name = f"    {slide['slide']}{'' if slide['image'] else ' (no image)'}"
                rows.append([name, slide["spots"], slide["genes"], slide["added"][:10], _size(slide["bytes"])])
    emit(table(["cohort / patient / slide", "spots", "genes", "added", "size"], rows))


def info(reference: options.Reference, version: Version = None, as_json: options.AsJson = False) -> None:
    """Show what a reference is: model, panel, settings, size, index, disk use."""
    from mclstexp.index.store.store import ReferenceStore
    from mclstexp.index.store.summary import describe

    values = describe(ReferenceStore.open(reference, version=options.version_or_tag(version)))
    if as_json:
        emit_json(values)
        return
    tags = "".join(f", tag {name}" for name in values["tags"])
    lines = [
        ("reference", values["path"]),
        ("version", f"{values['version']} of {values['time']} ({values['message']}){tags}"),
        ("holds", f"{values['n_spots']} spots of {values['n_slides']} slides ({values['n_with_image']} with image)"),
        ("from", f"{values['n_patients']} patients of {values['n_cohorts']} cohorts"),
        ("genes", f"{values['n_genes']} measured; the model's panel has {values['panel']['n_genes']}"),
        ("model", f"{values['model'][:12]}, embeddings of {values['embed_dim']}"),
        *((f"  {name}", _plain(value)) for name, value in sorted(values["settings"].items())),
        *(("index", _index_line(segment)) for segment in values["index"]),
        ("disk", ", ".join(f"{name} {_size(size)}" for name, size in values["bytes"].items() if size)),
    ]
    width = max(len(name) for name, _ in lines)
    emit("\n".join(f"{name.ljust(width)}  {value}" for name, value in lines))


def verify(
    reference: options.Reference,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be derived, and remove what killed writers left.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Check everything in a reference: hashes, rows, vectors, genes, index, copies, history, orphans."""
    from mclstexp.index.verify.run import verify as verify_reference

    report = verify_reference(reference, repair=repair, on_progress=progress("reading spots"))
    if as_json:
        emit_json({**vars(report), "ok": report.ok, "findings": [vars(finding) for finding in report.findings]})
    else:
        for finding in report.findings:
            emit(_finding_line(finding))
        emit(
            f"version {report.version}: {report.n_files} files, {report.n_slides} slides, {report.n_spots} spots: "
            f"{'whole' if report.ok else 'NOT whole'}"
        )
    if not report.ok:
        if not repair:
            note("mst verify --repair mends what can be derived; mst restore goes back to a whole version")
        raise typer.Exit(UNREPAIRED)


def history(reference: options.Reference, as_json: options.AsJson = False) -> None:
    """List every version of a reference: when, why, and the command that made it."""
    from mclstexp.index.store.store import ReferenceStore
    from mclstexp.index.store.summary import commits

    rows = commits(ReferenceStore.open(reference))
    if as_json:
        emit_json(rows)
        return
    cells = [
        [
            row["version"],
            row["time"],
            row["slides"],
            row["spots"],
            " ".join(row["tags"]),
            row["message"],
            row["command"],
        ]
        for row in rows
    ]
    emit(table(["version", "time", "slides", "spots", "tags", "message", "command"], cells))


def restore(
    version: Annotated[str, typer.Argument(help="Version to make the newest, by number or tag.")],
    reference: options.Reference,
    message: Message = "",
    as_json: options.AsJson = False,
) -> None:
    """Make an earlier version of a reference the newest. It becomes a version of its own; nothing is lost."""
    from mclstexp.index.store.store import ReferenceStore

    store = ReferenceStore.open(reference)
    store.restore(version, message=message, command=_command())
    if as_json:
        emit_json({"version": store.version, "restored": version, "n_spots": store.n_spots})
        return
    emit(f"version {store.version} is version {version} again: {len(store.entries)} slides, {store.n_spots} spots")


def tag(
    name: Annotated[str, typer.Argument(help="Name of the tag.")],
    reference: options.Reference,
    version: Annotated[str | None, typer.Option("--version", help="Version to name [default: the newest].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Move a tag that exists.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Give a version of a reference a name, for --version and mst restore."""
    from mclstexp.index.store.store import ReferenceStore

    number = ReferenceStore.open(reference, version=options.version_or_tag(version)).version
    ReferenceStore.open(reference).tag(name, number, force=force)
    if as_json:
        emit_json({"tag": name, "version": number})
        return
    emit(f"{name} is version {number}")


def optimize(reference: options.Reference, as_json: options.AsJson = False) -> None:
    """Join what many adds left in small pieces, and build the search index anew. The answers stay."""
    from mclstexp.index.store.store import ReferenceStore

    store = ReferenceStore.open(reference)
    store.optimize(command=_command())
    if as_json:
        emit_json({"version": store.version, "n_spots": store.n_spots, "pieces": len(store.pieces())})
        return
    emit(f"version {store.version}: {store.n_spots} spots, {len(store.pieces())} inverted files")


def _command() -> str:
    return shlex.join(["mst", *sys.argv[1:]])


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


def _index_line(segment: dict[str, Any]) -> str:
    if segment["recall"] is None:
        return f"{segment['kind']}, {segment['n_rows']} spots"
    reached = f"recall {segment['recall']:.4f} at {segment['recall_k']} with nprobe {segment['nprobe']}"
    return f"{segment['kind']}, {segment['n_rows']} spots, {reached}"


def _finding_line(finding: "Finding") -> str:
    state = "repaired" if finding.repaired else finding.level
    return f"{state}: {finding.path + ': ' if finding.path else ''}{finding.message}"
