"""What a reference holds, as plain values for printing."""

from __future__ import annotations

from typing import Any

from mclstexp.index.store.format import FORMAT_VERSION
from mclstexp.index.store.place import EXPRESSION, MODELS, TABLE_FOLDER, Place
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.store.table import Commit
from mclstexp.slide import count_patients
from mclstexp.storage import files_below


def describe(store: ReferenceStore) -> dict[str, Any]:
    """Identity, size, index and disk use of a reference."""
    identity, last = store.identity, store.history()[-1]
    parts = [loaded.piece for loaded in store.pieces()]
    return {
        "path": str(store.root),
        "reference_id": store.reference_id,
        "format_version": FORMAT_VERSION,
        "version": store.version,
        "time": last.time,
        "message": last.message,
        "published": dict(store.published),
        "tags": {name: version for name, version in store.tags().items() if version == store.version},
        "n_spots": store.n_spots,
        "n_slides": len(store.entries),
        "n_with_image": sum(entry.has_image for entry in store.entries),
        "n_patients": count_patients((entry.cohort, entry.patient, entry.slide_id) for entry in store.entries),
        "n_cohorts": len({entry.cohort for entry in store.entries}),
        "n_genes": len(store.genes),
        "model": identity.model_digest,
        "embed_dim": identity.embed_dim,
        "panel": {"digest": identity.panel.digest, "n_genes": len(identity.panel)},
        "settings": identity.settings,
        "index": [
            {
                "kind": part.kind,
                "n_rows": part.n_rows,
                "nprobe": part.nprobe,
                "recall": part.recall,
                "recall_k": part.recall_k,
            }
            for part in parts
        ]
        or [{"kind": "exact", "n_rows": store.n_spots, "nprobe": None, "recall": None, "recall_k": None}],
        "bytes": disk_use(store.place, store.reference_id),
    }


def disk_use(place: Place, reference_id: str) -> dict[str, int]:
    """Bytes by part; files with holes count what they occupy. Of an object store only what is derived is counted."""
    parts = {"tables": 0, "index": 0, "expression": 0, "models": 0, "other": 0}
    names = {TABLE_FOLDER: "tables", MODELS: "models", EXPRESSION: "expression", "keys": "index"}
    derived = place.derived(reference_id)
    for path in files_below(derived) | (files_below(place.local) if place.local is not None else set()):
        above = derived if path.is_relative_to(derived) else place.local or derived
        top = path.relative_to(above).parts[0]
        part = names.get(top.partition("-")[0] if above == derived else top, "other")
        parts[part] += min(path.stat().st_size, path.stat().st_blocks * 512)
    return {**parts, "total": sum(parts.values())}


def cohort_tree(store: ReferenceStore) -> list[dict[str, Any]]:
    """Cohorts, their patients, and their slides, with spots, genes, dates and sizes."""
    tree = []
    for cohort, patients in store.cohorts().items():
        branches = []
        for patient, entries in patients.items():
            slides = [
                {
                    "slide": entry.slide_id,
                    "spots": entry.n_spots,
                    "genes": entry.n_genes,
                    "image": entry.has_image,
                    "mpp": entry.mpp,
                    "added": entry.added,
                    "version": entry.added_version,
                    "bytes": entry.n_bytes,
                }
                for entry in entries
            ]
            branches.append(
                {
                    "patient": patient,
                    "spots": sum(entry.n_spots for entry in entries),
                    "bytes": sum(entry.n_bytes for entry in entries),
                    "slides": slides,
                }
            )
        genes = {
            symbol
            for entries in patients.values()
            for digest in {entry.genes_digest for entry in entries}
            for symbol in store.panels[digest].symbols
        }
        everyone = [entry for entries in patients.values() for entry in entries]
        tree.append(
            {
                "cohort": cohort,
                "spots": sum(entry.n_spots for entry in everyone),
                "bytes": sum(entry.n_bytes for entry in everyone),
                "genes": len(genes),
                "first_added": min(entry.added for entry in everyone),
                "last_added": max(entry.added for entry in everyone),
                "patients": branches,
            }
        )
    return tree


def commits(store: ReferenceStore) -> list[dict[str, Any]]:
    """Every version, oldest first."""
    tags: dict[int, list[str]] = {}
    for name, version in store.tags().items():
        tags.setdefault(version, []).append(name)
    return [_commit(record, tags.get(record.version, [])) for record in store.history()]


def _commit(record: Commit, tags: list[str]) -> dict[str, Any]:
    return {
        "version": record.version,
        "time": record.time,
        "message": record.message,
        "command": record.command,
        "spots": record.n_spots,
        "slides": record.n_slides,
        "tags": tags,
    }
