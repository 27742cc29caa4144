"""What is asked of a publication, and the names that patients and slides have in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mclstexp.index.store.schema import SlideEntry
from mclstexp.storage import canonical_json, sha256_bytes


@dataclass(frozen=True)
class Wishes:
    """What is asked of a publication.

    Attributes
    ----------
    title, description, licence
        What the card says; a licence as the Hugging Face hub names it (``cc-by-4.0``) or any text.
    without_counts, without_images, rename_patients
        What is left out or replaced.
    """

    title: str = ""
    description: str = ""
    licence: str = ""
    without_counts: bool = False
    without_images: bool = False
    rename_patients: bool = False

    def left_out(self, before: Iterable[str] = ()) -> list[str]:
        """Return what is not in the copy, with what its source lacks already."""
        asked = {"counts": self.without_counts, "images": self.without_images}
        return sorted({*before, *(name for name, wanted in asked.items() if wanted)})

    def reference_id(self, source: str, version: int) -> str:
        """Return the identity of the copy: another one for other wishes about what is in it."""
        parts = [source, version, self.without_counts, self.without_images, self.rename_patients]
        return sha256_bytes(canonical_json(parts).encode())[:32]


@dataclass(frozen=True)
class Names:
    """Old name to new name of patients and slides."""

    patients: Mapping[str, str]
    slides: Mapping[str, str]

    @property
    def renamed_slides(self) -> list[str]:
        """Old names of the slides that have a new one."""
        return [old for old, new in self.slides.items() if old != new]


def names_of(entries: Sequence[SlideEntry], trained_on: Sequence[Mapping[str, Any]], *, rename: bool) -> Names:
    """Return the names of a publication.

    A patient's new name is the same in every cohort, so that leaving a patient out and counting patients answer as
    before; numbers go by the order of the rows, so that they stay when the reference grows. A slide whose name holds
    its patient's is named after the patient's new name.
    """
    known = [(entry.patient, entry.slide_id) for entry in entries]
    known += [(str(slide["patient"]), str(slide["slide"])) for slide in trained_on]
    if not rename:
        return Names({patient: patient for patient, _ in known}, {slide: slide for _, slide in known})
    patients = {"": ""}
    for patient, _ in known:
        patients.setdefault(patient, f"patient-{len(patients):03d}")
    slides: dict[str, str] = {}
    numbers: dict[str, int] = {}
    taken = {slide for patient, slide in known if not holds(slide, patients)}
    for _patient, slide in known:
        if slide in slides:
            continue
        if slide in taken:
            slides[slide] = slide
            continue
        base = patients[_patient] or "slide"
        while True:
            numbers[base] = numbers.get(base, 0) + 1
            name = f"{base}-slide-{numbers[base]}"
            if name not in taken:
                break
        slides[slide] = name
    return Names(patients, slides)


def holds(text: str | None, patients: Iterable[str]) -> bool:
    """Whether a text holds the name of a patient, whatever the case."""
    return bool(text) and any(patient and patient.lower() in str(text).lower() for patient in patients)


def clean_sources(entry: SlideEntry, *, images: bool) -> str:
    """Return the hashes of a slide's files without their paths: a slide is known again by them, its folders are not."""
    hashes = sorted(set(entry.source_hashes.values()) - {entry.image_sha256})
    named = {f"file-{number}": digest for number, digest in enumerate(hashes, start=1)}
    if images and entry.image_sha256:
        named["image"] = entry.image_sha256
    return json.dumps(named, sort_keys=True)
