"""What a reference holds, as plain values for printing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mclstexp.index.search.segment import INDEX
from mclstexp.index.store.commit import history
from mclstexp.index.store.manifest import CACHE, FORMAT_VERSION, MODELS, Manifest
from mclstexp.index.store.store import ReferenceStore
from mclstexp.slide import count_patients
from mclstexp.storage import files_below


def describe(store: ReferenceStore) -> dict[str, Any]:
    """Identity, size, index and disk use of a reference."""
    manifest, identity = store.manifest, store.identity
    return {
        "path": str(store.root),
        "reference_id": manifest.reference_id,
        "format_version": FORMAT_VERSION,
        "version": manifest.version,
        "time": manifest.time,
        "message": manifest.message,
        "tags": {name: version for name, version in store.tags().items() if version == manifest.version},
        "n_spots": store.n_spots,
        "n_slides": manifest.n_slides,
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
                "kind": segment.kind if segment.ivf else "exact",
                "n_rows": segment.n_rows,
                "nprobe": segment.nprobe or None,
                "recall": segment.recall,
                "recall_k": segment.recall_k,
            }
            for segment in manifest.segments
        ],
        "bytes": disk_use(store.root),
    }


def disk_use(root: Path) -> dict[str, int]:
    """Bytes on disk by part; files with holes count what they occupy."""
    parts = {"tables": 0, "index": 0, "cache": 0, "models": 0, "other": 0}
    names = {INDEX: "index", CACHE: "cache", MODELS: "models"}
    for path in files_below(root):
        top = path.relative_to(root).parts[0]
        part = "tables" if top.endswith(".lance") else names.get(top, "other")
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
    return [_commit(record, tags.get(record.version, [])) for record in history(store.root, store.manifest)]


def _commit(record: Manifest, tags: list[str]) -> dict[str, Any]:
    return {
        "version": record.version,
        "time": record.time,
        "message": record.message,
        "command": record.command,
        "spots": record.n_spots,
        "slides": record.n_slides,
        "tags": tags,
    }
