"""Fitting the space that settings ask for: the closed form, the network that refines it, the linear map beside it."""

from __future__ import annotations

from collections.abc import Sequence

from mclstexp.config import ModelConfig
from mclstexp.model.space.contrast import refine
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import Layout, SlideArrays
from mclstexp.predict.linear import with_linear
from mclstexp.predict.splits import excerpts
from mclstexp.types import Progress

MAX_WORK = 640_000
"""Spots times epochs that a network is refined with: 16,000 spots in 40 epochs, or more spots in fewer."""


def fit_space(
    slides: Sequence[SlideArrays],
    layout: Layout,
    config: ModelConfig,
    *,
    work: int = MAX_WORK,
    on_progress: Progress | None = None,
) -> SharedSpace:
    """Fit a space to slides of reduced features.

    Parameters
    ----------
    slides, layout
        What to fit to; the closed form and the linear map see every spot.
    config
        Settings: ``shared``, ``contrast_epochs``, ``blend``.
    work
        Spots times epochs of the network at most; it is trained with an excerpt of more.
    on_progress
        Called after every epoch of the network.

    Raises
    ------
    InputError, MismatchError
        As `fit_shared_space`.
    """
    space = fit_shared_space(slides, layout, config.shared, seed=config.seed)
    if config.contrast_epochs:
        space = contrasted(space, slides, layout, config, work=work, on_progress=on_progress)
    return with_linear(space, slides, seed=config.seed) if config.blend else space


def contrasted(
    space: SharedSpace,
    slides: Sequence[SlideArrays],
    layout: Layout,
    config: ModelConfig,
    *,
    work: int = MAX_WORK,
    on_progress: Progress | None = None,
) -> SharedSpace:
    """Refine a closed form for exactly ``config.contrast_epochs``, with as many spots as the work allows."""
    some = excerpts(slides, max_spots=max(1, work // config.contrast_epochs), seed=config.seed)
    epochs = config.contrast_epochs
    refined = refine(space, some, layout, validate=None, epochs=epochs, seed=config.seed, on_progress=on_progress)
    return refined.space or space
