"""The card of a published reference: ``README.md``, made from its contents, with the head that the Hub wants."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mclstexp.data.positions.lattice import pitch_px
from mclstexp.index.store.store import ReferenceStore
from mclstexp.model.calibration import Calibration
from mclstexp.model.folder import ModelFiles
from mclstexp.slide import count_patients
from mclstexp.text import counted

_LICENCES = (
    "apache-2.0 mit cc0-1.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 "
    "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 odc-by odbl pddl "
    "cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 gpl-3.0 agpl-3.0 lgpl-3.0 bsd-3-clause"
)
"""Licences that the Hub knows by name; another text becomes its ``other``."""


@dataclass(frozen=True)
class CohortFacts:
    """What the card says of a cohort: numbers, and the distance between its spots in um where it is known."""

    name: str
    n_patients: int
    n_slides: int
    n_images: int
    n_spots: int
    n_genes: int
    n_counts: int
    pitches_um: tuple[float, ...]


def facts_of(store: ReferenceStore, patients: Mapping[str, str]) -> list[CohortFacts]:
    """Look through the cohorts; ``patients`` maps their names to those of the publication."""
    cohorts = []
    for name, by_patient in store.cohorts().items():
        entries = [entry for part in by_patient.values() for entry in part]
        pitches = set()
        for entry in entries:
            rows = store.spots(np.arange(*entry.rows), ["x_px", "y_px"])
            pitch = pitch_px(np.stack([np.asarray(rows["x_px"]), np.asarray(rows["y_px"])], axis=1))
            if pitch is not None and entry.mpp is not None:
                pitches.add(float(f"{pitch * entry.mpp:.2g}"))
        genes = {symbol for entry in entries for symbol in store.panels[entry.genes_digest].symbols}
        cohorts.append(
            CohortFacts(
                name,
                count_patients((entry.cohort, patients[entry.patient], entry.slide_id) for entry in entries),
                len(entries),
                sum(entry.has_image for entry in entries),
                sum(entry.n_spots for entry in entries),
                len(genes),
                sum(entry.total_counts for entry in entries),
                tuple(sorted(pitches)),
            )
        )
    return cohorts


def card_text(cohorts: Sequence[CohortFacts], model: ModelFiles, about: Mapping[str, Any]) -> str:
    """Return the card.

    Parameters
    ----------
    cohorts
        What `facts_of` returns.
    model
        The reference's model.
    about
        What the manifest says.
    """
    title = about["title"] or f"Spatial transcriptomics reference of {counted(about['n_spots'], 'spot')}"
    lines = [*_head(title, about["licence"]), "", f"# {title}", ""]
    if about["description"]:
        lines += [about["description"], ""]
    lines += [
        "A reference for the program `mclstexp`: it predicts gene expression from an H&E "
        "slide by looking up similar spots, and shows which they were.",
        "",
        "## Use it",
        "",
        "Where `ADDRESS` is this dataset (`hf://owner/name`), or the folder or `https://` address of its files:",
        "",
        "```sh",
        "mst info ADDRESS",
        "mst query slide.tif --reference ADDRESS",
        "mst fetch reference ADDRESS -o reference/    # a copy of your own, which can grow" if _grows(about) else
        "mst fetch reference ADDRESS -o reference/    # a copy of your own",
        "```",
        "",
        *_contents(cohorts),
        *_model(model),
        *_left_out(about),
        *_rest(about),
    ]  # fmt: skip
    return "\n".join(lines)


def _grows(about: Mapping[str, Any]) -> bool:
    return "counts" not in about["left_out"]


def _head(title: str, licence: str) -> list[str]:
    name = licence.strip().lower()
    lines = ["---", f"pretty_name: {json.dumps(title)}"]
    if name in _LICENCES.split():
        lines.append(f"license: {name}")
    elif licence.strip():
        slug = re.sub(r"[^a-z0-9]+", "-", name)[:60].strip("-") or "see-below"
        lines += ["license: other", f"license_name: {slug}", "license_link: README.md"]
    return [*lines, "tags:", *(f"- {tag}" for tag in ("spatial-transcriptomics", "histology", "mclstexp")), "---"]


def _cell(value: object) -> str:
    return re.sub(r"[|<>`\s]+", " ", str(value)).strip()


def _contents(cohorts: Sequence[CohortFacts]) -> list[str]:
    rows = [
        f"| {_cell(c.name) or '(no name)'} | {c.n_patients} | {c.n_slides} ({c.n_images} with image) | {c.n_spots:,} | "
        f"{c.n_genes:,} | {c.n_counts:,} | {', '.join(f'{p:g} um' for p in c.pitches_um) or 'unknown'} |"
        for c in cohorts
    ]
    return [
        "## What is in it",
        "",
        "| cohort | patients | slides | spots | genes measured | counts | distance of spots |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _model(model: ModelFiles) -> list[str]:
    config = model.config
    calibration = Calibration.from_state(model.arrays, model.facts)
    expected = "not known: the model is not calibrated" if calibration is None else calibration.summary()
    scale = config.normalisation
    cut = "full-resolution pixels" if config.patch.mpp is None else f"{config.patch.mpp:g} um per pixel"
    return [
        "## Its model",
        "",
        f"Encoder `{_cell(config.encoder.name)}`, recipe `{_cell(config.recipe)}`, patches of {config.patch.size_px} "
        f"pixels at {cut}.",
        f"It predicts {len(model.panel)} genes as log(1 + counts / total x {scale.target_sum:g}), {scale.log}, total "
        f"over {scale.total} genes.",
        f"Accuracy as measured when it was trained, {expected}.",
        "Predictions are estimates for research, and no evidence on the slides and patients that are in the reference.",
        "",
    ]


def _left_out(about: Mapping[str, Any]) -> list[str]:
    lines = ["Paths of files, commands, messages and user names of those who built it."]
    if "counts" in about["left_out"]:
        lines.append("Raw counts: the panel's expression is there on the model's scale, no other gene or scale.")
    if "images" in about["left_out"]:
        lines.append(
            "Embeddings and hashes of images: whether a slide is in the reference cannot be told by its image."
        )
    if about["patients_renamed"]:
        lines.append("Names of patients, and of slides that held them: `patient-001` is one patient throughout.")
    return [
        "## What was left out",
        "",
        *(f"- {line}" for line in lines),
        "",
        "Positions, keys and neighbours of spots are there.",
        "Who has a slide can still find out from them whether it is in the reference.",
        "",
    ]


def _rest(about: Mapping[str, Any]) -> list[str]:
    made_from = about["made_from"]
    return [
        "## Licence",
        "",
        about["licence"] or "None was given: ask who published it before you use it.",
        "",
        "## Version and citation",
        "",
        f"Made by mclstexp {about['program']} from version {made_from['version']} of reference "
        f"`{_cell(made_from['reference_id'])[:12]}`; this copy is `{about['reference_id'][:12]}`.",
        "Cite the studies that the cohorts come from, and this address with that number.",
        "Every file is listed with its SHA-256 in `published.json`.",
        "",
    ]
