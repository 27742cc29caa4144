"""What fitting needs of slides: arrays, which columns belong together, what is held out, and what counts how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import InputError
from mclstexp.types import FloatArray

MAX_FOLDS = 8

MIN_PATIENTS = 4
"""Patients are held out from this number on. With fewer, what is left to learn from is too unlike the whole."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlideArrays:
    """What the fit needs of one slide.

    Attributes
    ----------
    slide_id, patient
        Identity; ``patient`` may be "".
    features
        ``(n, F)`` float32 image features, scales side by side; a memory map will do.
    expression
        ``(n, G)`` float32 over the gene panel; genes that the slide did not measure are zero.
    measured
        ``(G,)`` which genes the slide measured.
    xy_um
        ``(n, 2)`` spot centres in um.
    depth
        ``(n,)`` total counts, so that shallow spots and slides weigh less; None where nothing is known of it.
    """

    slide_id: str
    patient: str
    features: FloatArray
    expression: FloatArray
    measured: NDArray[np.bool_]
    xy_um: NDArray[np.float64]
    depth: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = len(self.features)
        if len(self.expression) != n or self.xy_um.shape != (n, 2):
            raise InputError(
                f"Slide {self.slide_id}: {n} feature rows, {len(self.expression)} expression rows, "
                f"{len(self.xy_um)} positions; all must agree."
            )
        if self.depth is not None and len(self.depth) != n:
            raise InputError(f"Slide {self.slide_id}: {len(self.depth)} depths for {n} spots; they must agree.")


@dataclass(frozen=True)
class FeatureBlock:
    """Neighbouring columns of the features that belong together.

    Attributes
    ----------
    width
        Number of columns.
    scale
        Place of their field of view.
    group
        What of the encoder they are: ``early`` or ``late`` stages, or its ``last`` layer beside them.
    mass
        Variance that they are brought to, together.
    columnwise
        Whether each column is brought to one variance; else the block is scaled as a whole.
    """

    width: int
    scale: int = 0
    group: str = "early"
    mass: float = 1.0
    columnwise: bool = True


class Layout(Protocol):
    """Which columns of the features belong together."""

    @property
    def parts(self) -> tuple[FeatureBlock, ...]:
        """Blocks, in the order of the columns."""
        ...


@dataclass(frozen=True)
class FeatureLayout:
    """The encoder's features: ``blocks`` widths (one a stage), repeated for every scale.

    ``names`` says what each block is, as `ImageEncoder.block_names` does; empty where nothing is known of them.
    """

    blocks: tuple[int, ...]
    n_scales: int = 1
    names: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Length of a feature vector."""
        return sum(self.blocks) * self.n_scales

    @property
    def parts(self) -> tuple[FeatureBlock, ...]:
        """A block a stage and scale, the encoder's last layer beside its stages told apart."""
        idle = [name.endswith(".last") for name in self.names] or [False] * len(self.blocks)
        idle = [False] * len(self.blocks) if all(idle) else idle
        members = [name.rpartition(".")[0] for name in self.names] or [""] * len(self.blocks)
        n_stages = {one: sum(m == one and not off for m, off in zip(members, idle, strict=True)) for one in members}
        seen = dict.fromkeys(members, 0)
        groups = []
        for member, off in zip(members, idle, strict=True):
            groups.append("last" if off else "early" if 2 * seen[member] < n_stages[member] else "late")
            seen[member] += not off
        return tuple(
            FeatureBlock(width, scale, group)
            for scale in range(self.n_scales)
            for width, group in zip(self.blocks, groups, strict=True)
        )

    def column_weights(self) -> Matrix:
        """``1 / width of the column's block``: a stage of 16 channels counts as much as one of 1,280.

        An encoder's last layer beside its stages counts nothing.
        """
        return np.concatenate([np.full(part.width, (part.group != "last") / part.width) for part in self.parts])


def column_scale(variance: Matrix, layout: Layout, masses: Sequence[float] | None = None) -> Matrix:
    """Return the factor ``(F,)`` of each column that brings every block to its mass; what never varies gets none.

    Parameters
    ----------
    variance
        ``(F,)`` of the columns.
    masses
        One a block in place of its own.
    """
    factors, start = [], 0
    for part, mass in zip(layout.parts, masses or [part.mass for part in layout.parts], strict=True):
        own = variance[start : start + part.width]
        start += part.width
        total = own if part.columnwise else np.full(part.width, own.sum() / part.width)
        moving = total > 1e-12
        factors.append(np.where(moving, np.sqrt(mass / part.width / np.where(moving, total, 1.0)), 0.0))
    return np.concatenate(factors)


FoldKind = Literal["patient", "slide", "block"]


def folds(slides: Sequence[SlideArrays]) -> tuple[FoldKind, list[NDArray[np.int64]]]:
    """Return what is held out together, and the fold of each slide's spots.

    Patients where there are ``MIN_PATIENTS``, else slides, else quarters of the one slide. More than ``MAX_FOLDS``
    groups are put together, the large ones first, into the fold that is smallest so far.
    """
    patients = [slide.patient or slide.slide_id for slide in slides]
    known = len({slide.patient for slide in slides if slide.patient}) >= MIN_PATIENTS
    names, kind = (patients, "patient") if known else ([slide.slide_id for slide in slides], "slide")
    if len(set(names)) < 2:
        return "block", [_quarters(slide.xy_um) for slide in slides]
    sizes = dict.fromkeys(names, 0)
    for name, slide in zip(names, slides, strict=True):
        sizes[name] += len(slide.features)
    load, fold = [0] * min(MAX_FOLDS, len(sizes)), {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        fold[name] = int(np.argmin(load))
        load[fold[name]] += sizes[name]
    spread = [np.full(len(s.features), fold[name], dtype=np.int64) for name, s in zip(names, slides, strict=True)]
    return ("patient" if kind == "patient" else "slide"), spread


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Slides to fit to, with what is held out together and how much each spot counts.

    Attributes
    ----------
    kind
        What is held out: patients, slides, or quarters of the one slide.
    fold_of, weights
        ``(n,)`` fold and weight of each spot, one array a slide.
    """

    slides: Sequence[SlideArrays]
    kind: FoldKind
    fold_of: list[NDArray[np.int64]]
    weights: list[Matrix]

    @classmethod
    def of(cls, slides: Sequence[SlideArrays]) -> TrainingSet:
        """Divide and weigh the spots of slides."""
        kind, fold_of = folds(slides)
        return cls(slides, kind, fold_of, spot_weights(slides))

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return sum(len(slide.features) for slide in self.slides)

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return 1 + max(int(fold.max()) for fold in self.fold_of)

    def __iter__(self) -> Iterator[tuple[SlideArrays, Matrix, NDArray[np.int64]]]:
        """Iterate over slides with their spots' weights and folds."""
        return zip(self.slides, self.weights, self.fold_of, strict=True)


def spot_weights(slides: Sequence[SlideArrays]) -> list[Matrix]:
    """Return how much each spot counts in the fit, one array ``(n,)`` a slide.

    The fewer counts, the noisier the expression, and the larger its steps: a log of 1 count in 50 is far above one of
    1 in 5,000. Spots weigh ``t / (t + median)``; a slide whose median is below the others' is taken down in
    proportion, so that a coarse patient does not bend the space for the deep ones.
    """
    known = [slide.depth for slide in slides if slide.depth is not None]
    if not known:
        return [np.ones(len(slide.features)) for slide in slides]
    typical = max(float(np.median(np.concatenate(known))), 1.0)
    weights = []
    for slide, of_slide in zip(slides, slide_weights(slides), strict=True):
        depth = np.full(len(slide.features), typical) if slide.depth is None else np.asarray(slide.depth, np.float64)
        weights.append(depth / (depth + typical) * of_slide)
    return weights


def slide_weights(slides: Sequence[SlideArrays]) -> Matrix:
    """Return ``(slides,)`` how much each slide counts, as `shallow_shares` of its median depth."""
    return shallow_shares(np.array([np.nan if slide.depth is None else np.median(slide.depth) for slide in slides]))


def shallow_shares(medians: Matrix) -> Matrix:
    """Return each slide's median depth over the slides' median, at most 1; 1 where the depth is not known (NaN).

    The median slide and all deeper ones count in full, a slide of half its depth counts half.
    """
    if np.isnan(medians).all():
        return np.ones(len(medians))
    typical = max(float(np.nanmedian(medians)), 1.0)
    return np.asarray(np.minimum(1.0, np.nan_to_num(medians, nan=typical) / typical))


def _quarters(xy_um: Matrix) -> NDArray[np.int64]:
    right, low = (xy_um > np.median(xy_um, axis=0)).T
    return np.asarray(2 * right + low, dtype=np.int64)


def sampled_rows(slides: Sequence[SlideArrays], wanted: int, seed: int) -> list[NDArray[np.int64]]:
    """Return about ``wanted`` spots in all, the same share of every slide, one ascending array a slide."""
    sizes = np.asarray([len(slide.features) for slide in slides])
    quota = np.ceil(sizes * min(1.0, wanted / sizes.sum())).astype(int)
    rng = np.random.default_rng(seed)
    return [np.sort(rng.permutation(size)[:some]) for size, some in zip(sizes, quota, strict=True)]
