"""What is in doubt of a query or of a slide to be added: patches unlike others', a pixel size unlike its slides'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mclstexp.index.store.schema import SlideEntry
from mclstexp.slide import Slide
from mclstexp.types import FloatArray

UNFAMILIAR = 5.0
"""Percentile below which a patch is unlike the reference's; a slide whose median is below it, as a whole."""

MANY_UNFAMILIAR = 0.20
"""Share of unfamiliar patches from which on the spots' places are doubted; of the reference's own, 5 % are."""

UNLIKE_MPP = 0.05
"""Pixel sizes from the pitch that differ by more are not of one scanner: sections of one differ by less than 1 %."""


def unfamiliar(percentile: FloatArray) -> list[str]:
    """Say so when the slide's patches, or too many of them, are unlike the reference's.

    Parameters
    ----------
    percentile
        ``(n,)`` familiarity of each patch, from 0 to 100.
    """
    if not len(percentile) or not np.isfinite(percentile).all():
        return []
    if np.median(percentile) < UNFAMILIAR:
        return [
            "Warning: the patches of this slide are unlike the reference's (median familiarity "
            f"{np.median(percentile):.1f} of 100): another tissue, another stain, a wrong pixel size or a blank? "
            "Do not rely on this prediction."
        ]
    n_low = int((percentile < UNFAMILIAR).sum())
    if n_low <= MANY_UNFAMILIAR * len(percentile):
        return []
    return [
        f"Warning: {n_low} of {len(percentile)} patches are unlike the reference's (familiarity below {UNFAMILIAR:g}, "
        "where about one in twenty is expected): spots beside the tissue, mirrored, moved or rescaled coordinates, a "
        "wrong --mpp, or kinds of tissue that the reference lacks? Look at them with mst plot --what familiarity."
    ]


def foreign(slide: Slide, percentile: FloatArray | None) -> list[str]:
    """Say so when a slide for a reference is unlike those that its model was trained on.

    Its spots answer queries of other tissues all the same: with a mouse's olfactory bulb under human gene names in a
    reference of breast cancer, a third of the neighbours' weight went to the mouse (docs/accuracy.md).

    Parameters
    ----------
    percentile
        ``(n,)`` familiarity of its patches among held-out training patches, or None where it is not known.
    """
    if percentile is None or not len(percentile) or np.median(percentile) >= UNFAMILIAR:
        return []
    return [
        f"Slide {slide.slide_id} is unlike the slides that the model was trained on (median familiarity "
        f"{np.median(percentile):.1f} of 100), and its spots answer queries of other tissues, too: train with it, keep "
        "it in a reference of its own, or query with --only-cohort."
    ]


def unlike_pixel_size(slide: Slide, entries: Sequence[SlideEntry]) -> list[str]:
    """Say so when a pixel size that follows from the spots alone is like that of no slide of the reference.

    Coordinates of another resolution than the image change it, and nothing else would tell.

    Parameters
    ----------
    slide
        The query.
    entries
        The reference's slides.
    """
    known = sorted(entry.mpp for entry in entries if entry.has_image and entry.mpp is not None)
    if slide.mpp is None or slide.mpp_source != "pitch" or not known:
        return []
    if any(abs(slide.mpp / mpp - 1) <= UNLIKE_MPP for mpp in known):
        return []
    around = f"{known[0]:.3g}" if known[-1] < 1.01 * known[0] else f"{known[0]:.3g} to {known[-1]:.3g}"
    return [
        f"Warning: the pixel size of {slide.mpp:.3g} um follows from the distance between spots alone, and the "
        f"reference's slides have {around}: were the coordinates made on an image of another size? The scanner's own "
        "pixel size, given with --mpp, would tell."
    ]
