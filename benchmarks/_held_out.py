"""Candidates of settings scored on slides held out, fitted to the whole training side: the oracle of a choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mclstexp.choose.figures import Figures, figures
from mclstexp.config import ModelConfig
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.reduce import Reduction
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.panel import GenePanel
from mclstexp.predict.linear import measured_expression, with_linear
from mclstexp.predict.memory import MemoryReference, embed_patches
from mclstexp.predict.predictor import Predictor, Query

MOST_COMPONENTS = 256
"""Directions that a space is fitted with; a candidate with fewer takes the first of them, which are the same."""


@dataclass(frozen=True, eq=False)
class Side:
    """What trains and what is held out.

    Attributes
    ----------
    train, test
        Slides, as arrays.
    layout, panel
        Of their features, and the genes of their expression.
    config
        The recipe, with what it chooses.
    """

    train: Sequence[SlideArrays]
    test: Sequence[SlideArrays]
    layout: FeatureLayout
    panel: GenePanel
    config: ModelConfig


@dataclass(eq=False)
class HeldOut:
    """Scores of settings on a side's test slides; what two candidates have in common is fitted once.

    Parameters
    ----------
    side
        The slides.
    reduction
        Of their features, as `mclstexp.choose.run.choose` made it.
    """

    side: Side
    reduction: Reduction
    _spaces: dict[str, SharedSpace] = field(default_factory=dict)
    _scored: dict[str, Figures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.train = [self.reduction(slide) for slide in self.side.train]
        self.test = [self.reduction(slide) for slide in self.side.test]
        self.truth = measured_expression(self.test)
        mean = np.nanmean(np.concatenate(measured_expression(self.train)), axis=0)
        self.plain = [float(np.nanmean((values - mean) ** 2)) for values in self.truth]

    def score(self, config: ModelConfig) -> Figures:
        """Return the figures of a reference of all training slides, made with these settings."""
        key = repr(dataclasses.replace(config, choose=()))
        if key not in self._scored:
            self._scored[key] = self._score(config)
        return self._scored[key]

    def _score(self, config: ModelConfig) -> Figures:
        panel, rule = self.side.panel, config.normalisation
        space = self._fitted(config).truncated(config.shared.components)
        reference = MemoryReference.of(self.train, space, config.key_mix, panel, rule)
        predictor = Predictor(space, config, panel)
        answers = [
            predictor.predict(
                reference, Query(embed_patches(space, slide), slide.features, panel, rule, config.retrieval)
            )
            for slide in self.test
        ]
        effective = float(np.median(np.concatenate([answer.n_effective for answer in answers])))
        return figures(self.truth, [answer.mean for answer in answers], self.plain, n_effective=effective)

    def _fitted(self, config: ModelConfig) -> SharedSpace:
        """Return the space of these settings, with the linear probe of its features."""
        components = min(MOST_COMPONENTS, len(self.side.panel))
        shared = dataclasses.replace(config.shared, components=max(components, config.shared.components))
        key = repr(shared)
        if key not in self._spaces:
            space = fit_shared_space(self.train, self.reduction.layout, shared, seed=config.seed)
            if self._spaces:  # The probe knows nothing of the settings.
                space = dataclasses.replace(space, linear=next(iter(self._spaces.values())).linear)
            else:
                space = with_linear(space, self.train, seed=config.seed)
            self._spaces[key] = space
        return self._spaces[key]
