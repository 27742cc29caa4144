"""Whether a reference, or its model, has seen the slide that is queried: then the prediction is no test of either."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.index.store.schema import SlideEntry
from mclstexp.index.store.store import ReferenceStore
from mclstexp.slide import Slide
from mclstexp.text import some


def leakage_warnings(
    slide: Slide,
    store: ReferenceStore,
    *,
    trained_on: Sequence[Mapping[str, Any]],
    allowed: NDArray[np.bool_] | None,
) -> list[str]:
    """Return a warning for each way in which the answer may have been known.

    Parameters
    ----------
    slide
        The query. Its patient is used where it is known.
    trained_on
        What the model records of its training slides: ``slide``, ``patient`` and, but for older models,
        ``image_sha256`` of each. The same image is the same slide; the same name alone may be another's.
    allowed
        Truth by row id of the spots that may be neighbours; None for all.
    """
    digest = slide.image.digest() if slide.image is not None else None
    same = [] if digest is None else store.find_slide(digest)
    certain = [seen for seen in trained_on if digest is not None and seen.get("image_sha256") == digest]
    patients = {slide.patient, *(entry.patient for entry in same), *(seen["patient"] for seen in certain)} - {""}
    usable = [entry for entry in store.entries if allowed is None or allowed[slice(*entry.rows)].any()]
    return [
        *_same_slide(same, usable),
        *_same_patient(patients, same, usable),
        *_trained_on({slide.slide_id, *(entry.slide_id for entry in same)}, certain, patients, trained_on),
    ]


def _same_slide(same: Sequence[SlideEntry], usable: Sequence[SlideEntry]) -> list[str]:
    names = {entry.slide_id for entry in usable}
    return [
        f"Warning: this image is slide {entry.slide_id!r} of the reference: the prediction finds the measured spots "
        f"themselves; leave it out with --exclude-slide {shlex.quote(entry.slide_id)}, or its patient with "
        "--exclude-patient."
        for entry in same
        if entry.slide_id in names
    ]


def _same_patient(patients: set[str], same: Sequence[SlideEntry], usable: Sequence[SlideEntry]) -> list[str]:
    own = {entry.slide_id for entry in same}
    warnings = []
    for patient in sorted(patients):
        others = [entry.slide_id for entry in usable if entry.patient == patient and entry.slide_id not in own]
        if others:
            warnings.append(
                f"Warning: the reference holds {len(others)} other slides of patient {patient!r} ({some(others)}), "
                f"perhaps cuts next to this one; leave them out with --exclude-patient {shlex.quote(patient)}."
            )
    return warnings


def _trained_on(
    names: set[str],
    certain: Sequence[Mapping[str, Any]],
    patients: set[str],
    trained_on: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Say what the model was trained on of the query, ``certain`` by its image, others by name or patient alone."""
    other = [seen for seen in trained_on if seen not in certain]
    sure = [str(seen["slide"]) for seen in certain]
    named = [str(seen["slide"]) for seen in other if seen["slide"] in names]
    cuts = [str(seen["slide"]) for seen in other if seen["slide"] not in names and seen["patient"] in patients]
    what = [f"slide {some(sure)}"] if sure else []
    what += [f"a slide of this name ({some(named)})"] if named else []
    what += [f"slides of the same patient ({some(cuts)})"] if cuts else []
    if not what:
        return []
    knows = ["it knows this tumour"] if cuts else []
    knows += ["it may have seen the answer"] if named else []
    return [
        f"Warning: the model was trained on {' and '.join(what)}: "
        f"{'it has seen the answer' if sure else ' and '.join(knows)}, whatever is left out of the neighbours; "
        "measure accuracy with mst evaluate, which trains anew."
    ]
