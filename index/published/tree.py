"""The files of a publication: one clean table with the rows of one version, and what belongs to it.

Data files are named by their content and cut between slides, so that a later version shares those of the slides that
stayed, and a publication that is repeated makes the same files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import mclstexp
from mclstexp.errors import InputError
from mclstexp.index.familiarity import reference_scores
from mclstexp.index.published.card import card_text, facts_of
from mclstexp.index.published.manifest import Manifest, PublishedFile
from mclstexp.index.published.wishes import Names, Wishes, clean_sources, names_of
from mclstexp.index.store import fragments
from mclstexp.index.store.change import properties_of
from mclstexp.index.store.format import metadata_of
from mclstexp.index.store.genes import genes_name, keep_genes
from mclstexp.index.store.hashes import record_version, write_record
from mclstexp.index.store.place import CARD, EXPRESSION, HASHES, MODELS, PUBLISHED, TABLE_FOLDER, Place
from mclstexp.index.store.schema import BATCH_ROWS, SlideEntry, spots_schema
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.store.table import Table
from mclstexp.model.calibration import Calibration
from mclstexp.model.card import model_card
from mclstexp.model.folder import ModelFiles, read_model, write_model
from mclstexp.predict.source import NEAREST
from mclstexp.storage import files_below, sha256_file
from mclstexp.types import Progress

FILE_ROWS = 65_536
"""A data file ends with the slide that brings it to so many rows."""

KEPT_DERIVED = ("slides-*.json", f"familiarity-{NEAREST}-*.json", "keys-*/pieces.json", "keys-*/ivf-*.faiss")
"""What is derived and travels: it takes long to make again, or cannot be; the rest is made in seconds."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A publication before it is written: the version, the wishes, the model and the names."""

    store: ReferenceStore
    wishes: Wishes
    model: ModelFiles
    names: Names

    @classmethod
    def of(cls, store: ReferenceStore, wishes: Wishes) -> Plan:
        """Look at what is to be published.

        Raises
        ------
        InputError, FormatError
            The reference holds no copy of its model; the copy is damaged.
        """
        folder = store.model_folder
        if not folder.is_dir():
            raise InputError(f"Reference {store.root} holds no copy of its model, and nobody could ask it without.")
        model = read_model(folder)
        names = names_of(store.entries, model.facts.get("slides", ()), rename=wishes.rename_patients)
        return cls(store, wishes, model, names)

    @property
    def left_out(self) -> list[str]:
        """What is not in the copy."""
        return self.wishes.left_out(self.store.published.get("left_out", ()))

    @property
    def published(self) -> dict[str, Any]:
        """What the copy's table says of itself."""
        before = self.store.published
        return {
            "made_from": before.get("made_from") or {"reference_id": self.store.reference_id,
                                                     "version": self.store.version},
            "left_out": self.left_out,
            "patients_renamed": self.wishes.rename_patients or bool(before.get("patients_renamed")),
        }  # fmt: skip

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the manifest says beside the files."""
        wishes, entries = self.wishes, self.store.entries
        return {
            **self.published,
            "reference_id": wishes.reference_id(self.store.reference_id, self.store.version),
            "title": wishes.title,
            "description": wishes.description,
            "licence": wishes.licence,
            "n_slides": len(entries),
            "n_spots": self.store.n_spots,
            "program": mclstexp.__version__,
        }

    @cached_property
    def card(self) -> str:
        """The text of the card."""
        return card_text(facts_of(self.store, self.names.patients), self.model, self.about)


def write_tree(plan: Plan, folder: Path, *, on_progress: Progress | None = None) -> Manifest:
    """Write every file of a publication into an empty folder, the manifest last."""
    place, store = Place(folder), plan.store
    identity = store.identity
    for panel in store.panels.values():
        keep_genes(place, panel)
    metadata = metadata_of(
        identity,
        keep_genes(place, identity.panel),
        plan.about["reference_id"],
        store.index_choice,
        plan.published,
    )
    schema = spots_schema(identity.embed_dim, metadata)
    pieces = _write_rows(plan, place, schema, on_progress)
    about = properties_of(f"version {plan.published['made_from']['version']}, published", "", len(store.entries))
    table = Table(place, fragments.create(place, schema, pieces, about))
    new = Snapshot(place, table)
    also = [genes_name(digest) for digest in {*store.panels, new.metadata["identity"]["genes"]}]
    if not new.has_counts:
        _write_expression(store, new, on_progress)
        also += [name for name in place.names(EXPRESSION) if not name.endswith(".lock")]
    record_version(table, also)
    _write_model(plan, place)
    _derive(store, Snapshot(place, table))
    (folder / CARD).write_text(plan.card)
    return _seal(plan, folder)


def _write_rows(plan: Plan, place: Place, schema: pa.Schema, on_progress: Progress | None) -> list[Any]:
    groups: list[list[SlideEntry]] = [[]]
    for entry in plan.store.entries:
        if sum(one.n_spots for one in groups[-1]) >= FILE_ROWS:
            groups.append([])
        groups[-1].append(entry)
    pieces, done = [], 0
    for group in groups:
        pieces += fragments.write(place, schema, _batches(plan, group, schema), "create")
        done += len(group)
        if on_progress is not None:
            on_progress("copying slides", done, len(plan.store.entries))
    return [_named_by_content(place, piece, number) for number, piece in enumerate(pieces)]


def _batches(plan: Plan, entries: Sequence[SlideEntry], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for entry in entries:
        rows = plan.store.spots(np.arange(*entry.rows), schema.names)
        columns = {name: rows[name].combine_chunks() for name in schema.names}
        columns |= _replaced(plan, entry, schema)
        table = pa.table([columns[name] for name in schema.names], schema=schema)
        yield from table.to_batches(max_chunksize=BATCH_ROWS)


def _replaced(plan: Plan, entry: SlideEntry, schema: pa.Schema) -> dict[str, pa.Array]:
    """Return the columns that are not as in the reference: names, paths, and what is left out."""
    images = "images" not in plan.left_out
    same: dict[str, Any] = {
        "slide_id": plan.names.slides[entry.slide_id],
        "patient": plan.names.patients[entry.patient],
        "image_path": None,
        "sources": clean_sources(entry, images=images),
    }
    if not images:
        same |= {"image_sha256": None, "has_image": False, "image_embedding": None}
    if "counts" in plan.left_out:
        same |= {"count_genes": b"", "count_values": b""}
    return {
        name: pa.repeat(pa.scalar(value, schema.field(name).type), entry.n_spots) if value is not None
        else pa.nulls(entry.n_spots, schema.field(name).type)
        for name, value in same.items()
    }  # fmt: skip


def _named_by_content(place: Place, piece: Any, number: int) -> Any:
    """Give a fragment's files names that follow from their bytes."""
    from lance.fragment import FragmentMetadata

    values = piece.to_json()
    values = json.loads(values) if isinstance(values, str) else dict(values)
    values["id"] = number
    for file in values["files"]:
        path = Path(str(place.local)) / TABLE_FOLDER / "data" / file["path"]
        file["path"] = f"{sha256_file(path)[:40]}.lance"
        path.replace(path.with_name(file["path"]))
    return FragmentMetadata.from_json(json.dumps(values))


def _write_expression(store: ReferenceStore, new: Snapshot, on_progress: Progress | None) -> None:
    """Write the panel's expression, which stands in for the counts."""
    old = {there.row_start: entry for there, entry in zip(new.entries, store.entries, strict=True)}
    new.expression_cache.fill(
        new.entries, lambda entry: store.panel_expression(old[entry.row_start]), on_progress=on_progress
    )


def _write_model(plan: Plan, place: Place) -> None:
    """Write the model, which names the slides that it was trained on."""
    files, digest = plan.model, str(plan.store.metadata["identity"]["model_digest"])
    slides = [
        {
            **slide,
            "slide": plan.names.slides[slide["slide"]],
            "patient": plan.names.patients[slide["patient"]],
            **({"image_sha256": None} if "images" in plan.left_out else {}),
        }
        for slide in files.facts.get("slides", ())
    ]
    calibration = Calibration.from_state(files.arrays, files.facts)
    card = model_card(slides, files.panel, files.config, calibration, files.history)
    renamed = ModelFiles(
        files.config, files.panel, files.arrays, {**files.facts, "slides": slides}, files.history, card
    )
    name = f"{MODELS}/{digest[:20]}"
    target = Path(str(place.local)) / name
    target.parent.mkdir(parents=True)
    write_model(target, renamed, digest=digest)
    write_record(place, f"{HASHES}/model-{digest[:20]}.json", place.names(name))


def _derive(store: ReferenceStore, new: Snapshot) -> None:
    """Keep what takes long to derive, or what the copy cannot derive itself."""
    scores = reference_scores(store, k=NEAREST, device="cpu")
    new.bring_up()
    new.keep(f"familiarity-{NEAREST}", {"scores": scores.astype(np.float64).tolist()})
    kept = {path for pattern in KEPT_DERIVED for path in new.derived.glob(pattern)}
    for path in files_below(new.derived) - kept:
        path.unlink()


def _seal(plan: Plan, folder: Path) -> Manifest:
    """List every file with its hash, and write the manifest."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.name.startswith("."):
            path.unlink()
    paths = sorted(files_below(folder), key=lambda path: path.relative_to(folder).as_posix())
    files = [PublishedFile(p.relative_to(folder).as_posix(), p.stat().st_size, sha256_file(p)) for p in paths]
    manifest = Manifest(plan.about, tuple(sorted(files, key=lambda file: file.path)))
    (folder / PUBLISHED).write_bytes(manifest.to_bytes())
    return manifest
