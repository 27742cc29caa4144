"""Which slides train and which are held out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mclstexp.data.paths import read_json, read_text
from mclstexp.data.tables import delimiter_of
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import duplicates, some

By = Literal["patient", "slide", "cohort"]
"""The unit that is held out as a whole."""


@dataclass(frozen=True)
class SplitSpec:
    """How slides are held out.

    Attributes
    ----------
    by
        The unit that is held out, and that must not sit on both sides of given folds either; ``slide`` lets other
        sections of the held-out patient into training and is reported with a warning.
    folds
        Given folds as (slide, fold) pairs: each fold is held out once, and trained for on the others.
    train, test
        One explicit split by slide id. With one of the two alone, the other is every remaining slide.
    """

    by: By = "patient"
    folds: tuple[tuple[str, str], ...] = ()
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise InputError(f"Cannot hold out by {self.by!r}; one of {', '.join(get_args(By))} is needed.")
        if self.folds and (self.train or self.test):
            raise InputError("Folds from a file and --train/--test exclude each other; give one of them.")


@dataclass(frozen=True, eq=False)
class Fold:
    """One split. ``train`` may hold slides without an image; ``test`` never does."""

    name: str
    train: tuple[Slide, ...]
    test: tuple[Slide, ...]

    @property
    def train_with_image(self) -> tuple[Slide, ...]:
        """The training slides that have an image."""
        return tuple(slide for slide in self.train if slide.image is not None)


def make_folds(slides: Sequence[Slide], spec: SplitSpec) -> tuple[list[Fold], list[str]]:
    """Divide slides into folds, in the order of the slides, with notes on what was left out.

    Slides without an image are never held out (there is nothing to predict from), but are listed on the training
    side. Slides without counts take no part.

    Raises
    ------
    InputError
        When ids repeat, a named slide is absent, the held-out unit is unknown for a slide or the same for all, or a
        fold is left without a training slide that has an image.
    """
    repeated = duplicates(slide.slide_id for slide in slides)
    if repeated:
        raise InputError(f"{len(repeated)} slide ids occur more than once, for example {repeated[0]!r}.")
    usable, notes = _with_counts(slides)
    if spec.folds:
        folds = _given_folds(usable, spec, notes)
    elif spec.train or spec.test:
        folds = _explicit_split(usable, spec)
    else:
        folds = _leave_one_out(usable, spec.by)
    for fold in folds:
        _check_fold(fold)
    return folds, notes


def _with_counts(slides: Sequence[Slide]) -> tuple[list[Slide], list[str]]:
    usable = [slide for slide in slides if slide.spots.counts is not None]
    notes = []
    if len(usable) < len(slides):
        dropped = [slide.slide_id for slide in slides if slide.spots.counts is None]
        notes.append(f"{len(dropped)} slides without counts take no part: {some(dropped)}.")
    blind = [slide.slide_id for slide in usable if slide.image is None]
    if blind:
        notes.append(
            f"{len(blind)} of {len(usable)} slides have no image: never held out, and in training only for methods "
            f"that take counts alone: {some(blind)}."
        )
    if len(blind) == len(usable):
        raise InputError(f"None of {len(slides)} slides has both counts and an image, so none can be held out.")
    return usable, notes


def _leave_one_out(slides: list[Slide], by: By) -> list[Fold]:
    unit = _unit_of(slides, by)
    held_out = list(dict.fromkeys(unit(slide) for slide in slides if slide.image is not None))
    if len(held_out) < 2:
        advice = "add slides" if by == "slide" else "use --by slide (leakier), or add slides of another " + by
        raise InputError(
            f"Leaving one {by} out needs images of at least 2 {by}s, but only {held_out[0]!r} has any; {advice}."
        )
    return [_fold(name, slides, lambda slide, name=name: unit(slide) == name) for name in held_out]  # type: ignore[misc]


def _given_folds(slides: list[Slide], spec: SplitSpec, notes: list[str]) -> list[Fold]:
    repeated = duplicates(slide for slide, _ in spec.folds)
    if repeated:
        raise InputError(f"The folds name slide {repeated[0]!r} more than once.")
    fold_of = dict(spec.folds)
    _require_known(fold_of, slides, "The file of folds")
    outside = [slide.slide_id for slide in slides if slide.slide_id not in fold_of]
    if outside:
        notes.append(f"{len(outside)} slides are in no given fold and take no part: {some(outside)}.")
    members = [slide for slide in slides if slide.slide_id in fold_of]
    names = list(dict.fromkeys(fold_of[slide.slide_id] for slide in members if slide.image is not None))
    if len(names) < 2:
        raise InputError(f"Folds with images: {len(names)}; at least 2 are needed, or use --train and --test.")
    return [_fold(name, members, lambda slide, name=name: fold_of[slide.slide_id] == name) for name in names]  # type: ignore[misc]


def _explicit_split(slides: list[Slide], spec: SplitSpec) -> list[Fold]:
    _require_known(spec.train, slides, "--train")
    _require_known(spec.test, slides, "--test")
    both = sorted(set(spec.train) & set(spec.test))
    if both:
        raise InputError(f"{len(both)} slides are in both --train and --test, for example {both[0]!r}.")
    by_id = {slide.slide_id: slide for slide in slides}
    blind = [name for name in spec.test if by_id[name].image is None]
    if blind:
        raise InputError(f"Slide {blind[0]} has no image, so it cannot be in --test.")
    test = set(spec.test) or set(by_id) - set(spec.train)
    train = set(spec.train) or set(by_id) - test
    members = [slide for slide in slides if slide.slide_id in test | train]
    name = ",".join(spec.test) or f"all but {','.join(spec.train)}"
    return [_fold(name, members, lambda slide: slide.slide_id in test)]


def _fold(name: str, slides: Sequence[Slide], is_held_out: Callable[[Slide], bool]) -> Fold:
    return Fold(
        name=name,
        train=tuple(slide for slide in slides if not is_held_out(slide)),
        test=tuple(slide for slide in slides if is_held_out(slide) and slide.image is not None),
    )


def _check_fold(fold: Fold) -> None:
    if not fold.test:
        raise InputError(f"Fold {fold.name!r} holds out no slide with an image.")
    if not fold.train_with_image:
        raise InputError(f"Fold {fold.name!r} leaves no slide with an image to train on ({len(fold.train)} without).")


def _unit_of(slides: Sequence[Slide], by: By) -> Callable[[Slide], str]:
    def unit(slide: Slide) -> str:
        return {"patient": slide.patient, "cohort": slide.cohort, "slide": slide.slide_id}[by]

    unknown = [slide.slide_id for slide in slides if not unit(slide)]
    if unknown:
        raise InputError(
            f"The {by} of {len(unknown)} of {len(slides)} slides is unknown ({some(unknown)}); name it in the "
            f"column {by} of slides.csv, or use --by slide."
        )
    return unit


def _require_known(names: Sequence[str] | dict[str, str], slides: Sequence[Slide], where: str) -> None:
    known = {slide.slide_id for slide in slides}
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"{where} names slide {missing[0]!r}, which is not there; slides: {some(sorted(known))}.")


def read_folds(path: Path) -> tuple[tuple[str, str], ...]:
    """Read given folds as (slide, fold) pairs.

    A CSV or TSV file with the columns ``slide`` and ``fold``, or JSON: ``{slide: fold}``, ``{fold: [slides]}``, or a
    list of ``{"slide": ..., "fold": ...}``.

    Raises
    ------
    InputError
        When the file is absent or of none of these shapes.
    """
    text = read_text(path, "Folds")
    if path.suffix.lower() == ".json":
        pairs = _pairs_of_json(read_json(path, "Folds"))
    else:
        rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter_of(text.partition("\n")[0])))
        pairs = [(row.get("slide"), row.get("fold")) for row in rows]
    if not pairs or not all(slide and fold for slide, fold in pairs):
        raise InputError(f"{path} holds no folds: columns slide,fold are needed, or JSON such as {{slide: fold}}.")
    return tuple((str(slide), str(fold)) for slide, fold in pairs)


def _pairs_of_json(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        pairs: list[tuple[Any, Any]] = []
        for key, item in value.items():
            pairs += [(slide, key) for slide in item] if isinstance(item, list) else [(key, item)]
        # A fold numbered 0 is a name, not an absence.
        return [(slide, str(fold)) for slide, fold in pairs if isinstance(fold, str | int)]
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return [(item.get("slide"), str(item["fold"]) if "fold" in item else None) for item in value]
    return []
