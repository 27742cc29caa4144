"""What a model says of images that it should, and should not, know: familiarity, intervals and their coverage.

    python benchmarks/familiarity.py

The default recipe, trained on the sections of patient C other than the one that is queried. Asked about: each section
held out, another patient, a slide of `mst demo`, glass beside the tissue of C2, C2 with its pixels shuffled (its
colours, no texture), noise, and blanks. Familiarity is a percentile among the reference's own patches; a slide whose
median is below 5 is called unlike the reference. Interval widths are relative to those of the held-out sections.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _her2st as her2st
import numpy as np
from _her2st import B, C
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mclstexp.index.reference import Reference
    from mclstexp.slide import Slide

Pixels = NDArray[np.uint8]

MPP = 0.688
"""Pixel size of the HER2+ images, and so of the invented ones."""

PITCH_UM = 200.0
SIDE_SPOTS = 7
MARGIN_SPOTS = 150
LOW = 5.0
BLOCK_PX = 256
QUARTILES = (25, 50, 75)


@dataclass(frozen=True)
class Question:
    """A slide to ask about, and the section left out of the model that is asked (or none)."""

    name: str
    left_out: str | None
    slide: Callable[[], Slide]


def query_slide(folder: Path, name: str, pixels: Pixels, xy_px: NDArray[np.float64], mpp: float = MPP) -> Slide:
    """Write an uncompressed image and return it as a slide without counts."""
    import tifffile

    path = folder / f"{name.replace(' ', '-')}.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), software=False)
    return of_image(path, name, xy_px, mpp)


def of_image(path: Path, name: str, xy_px: NDArray[np.float64], mpp: float) -> Slide:
    """Return a slide of an image file and spot centres."""
    from mclstexp.data.images import open_image
    from mclstexp.data.positions.lattice import derive_array
    from mclstexp.slide import Slide, SpotTable

    row, col = derive_array(xy_px)
    ids = np.array([f"s{i}" for i in range(len(xy_px))], dtype=np.str_)
    spots = SpotTable(spot_ids=ids, xy_px=xy_px, array_row=row, array_col=col)
    return Slide(name, "", "", spots, image=open_image(path), mpp=mpp, mpp_source="given", layout="query")


def lattice(width: float, height: float, pitch: float) -> NDArray[np.float64]:
    """Return the centres ``(n, 2)`` of a square grid, half a pitch inside the image."""
    x, y = np.arange(pitch / 2, width - pitch / 2 + 1, pitch), np.arange(pitch / 2, height - pitch / 2 + 1, pitch)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def invented(folder: Path, name: str, paint: Callable[[np.random.Generator, tuple[int, int, int]], Pixels]) -> Slide:
    """Paint an image without tissue, and lay spots over it."""
    side = int((SIDE_SPOTS + 1) * PITCH_UM / MPP)
    pixels = paint(np.random.default_rng(0), (side, side, 3))
    return query_slide(folder, name, pixels, lattice(side, side, PITCH_UM / MPP))


def white(rng: np.random.Generator, shape: tuple[int, int, int]) -> Pixels:
    return np.full(shape, 255, dtype=np.uint8)


def faint(rng: np.random.Generator, shape: tuple[int, int, int]) -> Pixels:
    return np.clip(rng.normal(243, 3, shape), 0, 255).astype(np.uint8)


def noise(rng: np.random.Generator, shape: tuple[int, int, int]) -> Pixels:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def shuffled(slide: Slide, folder: Path) -> Slide:
    """Shuffle the pixels within blocks of 176 um: the tissue's colours where they were, and no texture."""
    if slide.image is None:
        raise SystemExit(f"{slide.slide_id} has no image")
    width, height = (size // BLOCK_PX * BLOCK_PX for size in slide.image.size_px)
    pixels = slide.image.read_region(0, 0, width, height).copy()
    rng = np.random.default_rng(0)
    for top in range(0, height, BLOCK_PX):
        for left in range(0, width, BLOCK_PX):
            block = pixels[top : top + BLOCK_PX, left : left + BLOCK_PX]
            block[:] = rng.permutation(block.reshape(-1, 3)).reshape(block.shape)
    inside = (slide.spots.xy_px < (width, height)).all(axis=1)
    return query_slide(folder, "C2 shuffled", pixels, slide.spots.xy_px[inside], slide.require_mpp())


def margin(slide: Slide, span_px: float) -> Slide:
    """Return spots on the glass of a slide: nothing of the widest field of view lies on tissue or off the image."""
    from mclstexp.data.positions.tissue import tissue_mask, tissue_share

    if slide.image is None:
        raise SystemExit(f"{slide.slide_id} has no image")
    xy = lattice(*slide.image.size_px, PITCH_UM / slide.require_mpp())
    whole = ((xy >= span_px / 2) & (xy <= np.asarray(slide.image.size_px) - span_px / 2)).all(axis=1)
    xy = xy[whole]
    glass = xy[tissue_share(tissue_mask(slide.image), slide.image.size_px, xy, span_px) == 0]
    if not len(glass):
        raise SystemExit(f"{slide.slide_id} has no glass beside its tissue")
    glass = glass[np.unique(np.linspace(0, len(glass) - 1, min(len(glass), MARGIN_SPOTS)).astype(np.int64))]
    return of_image(slide.image.path, f"{slide.slide_id} margin", glass, slide.require_mpp())


def demo_slide(folder: Path) -> Slide:
    """Return the slide that `mst demo` predicts, as it writes it."""
    from mclstexp.data.synthetic.cohort import write_pyramid
    from mclstexp.data.synthetic.histology import SlideSpec
    from mclstexp.data.synthetic.slides import simulate_slide

    simulated = simulate_slide(SlideSpec(), patient=4, slide=0, seed=0)
    path = folder / "demo.tif"
    write_pyramid(simulated.image, path, mpp=simulated.mpp)
    return of_image(path, "mst demo", simulated.spots.xy_px, simulated.mpp)


def questions(options: argparse.Namespace, slides: dict[str, Slide], folder: Path) -> list[Question]:
    """Return every question, in the order of the table."""
    config = her2st.model_config(options)
    span = max(config.encoder.scales) * config.patch.span_px(slides["C2"].mpp)
    held_out = [Question(f"{name} held out", name, lambda name=name: slides[name]) for name in C]  # type: ignore[misc]
    return [
        *held_out,
        Question("B4, another patient", None, lambda: slides[B[0]]),
        Question("slide of mst demo", None, lambda: demo_slide(folder)),
        Question("margin of C2", "C2", lambda: margin(slides["C2"], span)),
        Question("C2, pixels shuffled", "C2", lambda: shuffled(slides["C2"], folder)),
        Question("noise", None, lambda: invented(folder, "noise", noise)),
        Question("white", None, lambda: invented(folder, "white", white)),
        Question("faint noise on white", None, lambda: invented(folder, "faint", faint)),
    ]


def build(options: argparse.Namespace, slides: list[Slide], folder: Path) -> Reference:
    """Train on slides and index them."""
    from mclstexp.index.reference import Reference

    return Reference.build(folder, slides, her2st.trained(options, slides, her2st.model_config(options)))


def answer(slide: Slide, reference: Reference, device: Any) -> dict[str, Any]:
    """Query a slide, and reduce what is said of its patches."""
    from mclstexp.data.genes.expression import expression_for
    from mclstexp.errors import MclstexpWarning
    from mclstexp.intervals import interval_coverage

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)  # they are in the notes
        prediction = reference.query(slide, thumbnail=False, device=device)
    row: dict[str, Any] = {"spots": len(slide), "warned": any("unlike" in text for text in prediction.notes)}
    if "familiarity" in prediction.obs:
        familiarity = np.asarray(prediction.obs["familiarity"], dtype=np.float64)
        low, median, high = np.percentile(familiarity, QUARTILES).tolist()
        row |= {"q25": low, "median": median, "q75": high, "below_5": float((familiarity < LOW).mean())}
    if prediction.lower is not None and prediction.upper is not None:
        row["width"] = float(np.nanmean(prediction.upper - prediction.lower))
        if slide.spots.counts is not None:
            scale = reference.model.config.normalisation
            truth, measured = expression_for(slide.spots, prediction.genes, scale)
            known = np.where(measured, truth, np.nan)
            covered = interval_coverage(known, prediction.lower, prediction.upper)
            row["coverage"] = None if covered is None else covered[0]
    return row


def main() -> None:
    options = her2st.parse(her2st.parser(__doc__, "familiarity"))
    slides = {slide.slide_id: slide for slide in her2st.read(options, (*C, *B))}
    results: dict[str, Any] = {"facts": her2st.facts(options)}
    print(her2st.describe(results["facts"]))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mst-familiarity-") as scratch:
        asked = questions(options, slides, Path(scratch))
        references: dict[str | None, Reference] = {}
        say = her2st.pace("familiarity")
        for i, question in enumerate(asked):
            if question.left_out not in references:
                training = [slides[name] for name in C if name != question.left_out]
                references[question.left_out] = build(options, training, Path(scratch) / f"without-{question.left_out}")
            row = answer(question.slide(), references[question.left_out], options.device)
            rows.append({"slide": question.name, "left_out": question.left_out, **row})
            say("questions", i + 1, len(asked))
    usual = [row["width"] for row in rows[: len(C)] if "width" in row]
    for row in rows:
        row["relative_width"] = row["width"] / float(np.mean(usual)) if usual and "width" in row else None
    her2st.save(options, {**results, "rows": rows})
    keys = ["slide", "spots", "q25", "median", "q75", "below_5", "warned", "relative_width", "coverage"]
    her2st.show("familiarity and intervals", keys, [[row.get(key) for key in keys] for row in rows])


if __name__ == "__main__":
    main()
