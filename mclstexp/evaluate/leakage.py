"""The check that nothing crosses from the held-out side to the training side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import InputError
from mclstexp.evaluate.folds import By, Fold, SplitSpec
from mclstexp.slide import Slide, SpotTable
from mclstexp.storage import sha256_input
from mclstexp.text import some

INFORMATIVE_GENES = 20
"""A spot's counts identify it when it expresses at least this many genes."""

SHARED_SPOTS_REFUSED = 0.05
"""Share of a held-out slide's spots that may have an exact double in training (a chance match, not a copy)."""


def check_leakage(folds: Sequence[Fold], spec: SplitSpec) -> list[str]:
    """Refuse folds whose two sides share a patient or content; return warnings on what ``by="slide"`` lets through.

    Raises
    ------
    InputError
        When a patient (unless ``spec.by`` is ``slide``), the held-out cohort (``by="cohort"``), an image file, or more
        than a twentieth of a held-out slide's spots is on both sides of a fold.
    """
    slides = list({slide.slide_id: slide for fold in folds for slide in fold.train + fold.test}.values())
    fingerprints = {slide.slide_id: spot_fingerprints(slide.spots) for slide in slides}
    doubles = _same_images(slides)
    shared: list[str] = []
    unknown: set[str] = set()
    for fold in folds:
        for test in fold.test:
            for train in fold.train:
                _refuse_same_content(test, train, fold=fold.name, fingerprints=fingerprints, doubles=doubles)
            unknown |= {slide.slide_id for slide in (test, *fold.train) if not slide.patient}
            same = [train.slide_id for train in fold.train if train.patient and train.patient == test.patient]
            if same and spec.by != "slide":
                raise InputError(
                    f"Fold {fold.name!r}: slide {same[0]} in training and held-out slide {test.slide_id} are both of "
                    f"patient {test.patient!r}; divide them by patient, or accept it with --by slide."
                )
            shared += [f"{test.slide_id} ({len(same)} others of patient {test.patient})"] if same else []
            if spec.by == "cohort" and any(train.cohort == test.cohort for train in fold.train):
                raise InputError(f"Fold {fold.name!r}: cohort {test.cohort!r} is on both sides.")
    return _leakage_warnings(shared, sorted(unknown), spec.by)


def _leakage_warnings(shared: list[str], unknown: list[str], by: By) -> list[str]:
    warnings = []
    if shared:
        warnings.append(
            "LEAKAGE BY DESIGN: other sections of the held-out patient are in training, often adjacent cuts of the "
            "same tumour. These figures say nothing about a new patient: "
            f"{some(shared)}. Use --by patient for that."
        )
    if unknown:
        help_ = "" if by == "patient" else "; a patient may be on both sides"
        warnings.append(f"The patient of {len(unknown)} slides is unknown{help_}: {some(unknown)}.")
    return warnings


def _refuse_same_content(
    test: Slide,
    train: Slide,
    *,
    fold: str,
    fingerprints: dict[str, NDArray[np.uint64]],
    doubles: dict[str, str],
) -> None:
    held_out, known = fingerprints[test.slide_id], fingerprints[train.slide_id]
    share = float(np.isin(held_out, known).mean()) if len(held_out) else 0.0
    if share > SHARED_SPOTS_REFUSED:
        raise InputError(
            f"Fold {fold!r}: {share:.0%} of the spots of held-out slide {test.slide_id} have the very same counts in "
            f"training slide {train.slide_id}; remove one of the two, or leave it out with --slides."
        )
    image = doubles.get(test.slide_id)
    if image is not None and image == doubles.get(train.slide_id):
        raise InputError(
            f"Fold {fold!r}: held-out slide {test.slide_id} and training slide {train.slide_id} have the same image "
            "file; remove one of the two, or leave it out with --slides."
        )


def spot_fingerprints(spots: SpotTable) -> NDArray[np.uint64]:
    """Hash each spot's counts, whatever the order of the genes, so that a copied slide is recognised.

    Spots that express fewer than 20 genes are left out: their counts can agree by chance.

    Returns
    -------
    NDArray[np.uint64]
        ``(m,)`` with ``m <= len(spots)``.
    """
    if spots.counts is None or spots.genes is None:
        return np.empty(0, dtype=np.uint64)
    counts = spots.counts.copy()
    counts.eliminate_zeros()
    names = np.array([_hash64(symbol) for symbol in spots.genes.symbols], dtype=np.uint64)
    mixed = _scramble(names[counts.indices] ^ _scramble(counts.data.astype(np.int64).astype(np.uint64)))
    totals = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    rows = totals[counts.indptr[1:]] - totals[counts.indptr[:-1]]  # modulo 2^64, so differences of sums stay exact
    informative: NDArray[np.uint64] = rows[np.diff(counts.indptr) >= INFORMATIVE_GENES]
    return informative


def _scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, element by element."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _same_images(slides: Sequence[Slide]) -> dict[str, str]:
    """Slide to the digest of its image file, for the slides whose image may be another's too."""
    by_size: dict[int, dict[str, Path]] = {}
    for slide in slides:
        if slide.image is not None and slide.image.path.is_file():
            by_size.setdefault(slide.image.path.stat().st_size, {})[slide.slide_id] = slide.image.path.resolve()
    digests: dict[Path, str] = {}
    digest_of = {}
    for group in by_size.values():
        if len(group) < 2:
            continue
        for slide_id, path in group.items():
            if path not in digests:
                digests[path] = sha256_input(path)
            digest_of[slide_id] = digests[path]
    return digest_of
