"""Held-out predictions by candidates of settings, through the predictor that answers queries."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mclstexp.choose.figures import Figures, figures
from mclstexp.config import ModelConfig
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import Layout
from mclstexp.panel import GenePanel
from mclstexp.predict.memory import MemoryReference, embed_patches
from mclstexp.predict.predictor import Predicted, Predictor, Query
from mclstexp.predict.splits import Split
from mclstexp.sampling import evenly
from mclstexp.types import FloatArray, IdArray

MAX_COMPONENTS = 256
"""Directions that a rehearsal's spaces hold; a candidate with fewer takes the first of them."""

MAX_RANK = 512
MAX_LANDMARKS = 2048


@dataclass(eq=False)
class Rehearsal:
    """A training set divided again and again; each candidate predicts what it has not seen.

    Parameters
    ----------
    divided
        The divisions, of reduced features.
    layout, panel
        Of the features, and the genes of the expression.
    """

    divided: Sequence[Split]
    layout: Layout
    panel: GenePanel
    _spaces: dict[tuple[object, ...], list[SharedSpace]] = field(default_factory=dict)

    @property
    def truth(self) -> list[FloatArray]:
        """``(n, G)`` of each held-out slide, NaN where not measured."""
        return [np.where(s.measured, s.expression, np.float32(np.nan)) for split in self.divided for s in split.held]

    @property
    def n_components(self) -> int:
        """How many directions a candidate may ask for at most."""
        n_spots = min(sum(len(s.features) for s in split.rest) for split in self.divided)
        return max(1, min(MAX_COMPONENTS, len(self.panel), n_spots // 4))

    def only(self, places: Sequence[int]) -> Rehearsal:
        """Return a rehearsal of some of the divisions, with what is fitted already."""
        fitted = {key: [spaces[i] for i in places] for key, spaces in self._spaces.items()}
        return Rehearsal([self.divided[i] for i in places], self.layout, self.panel, fitted)

    def figures(
        self,
        config: ModelConfig,
        *,
        queries: int,
        plain: Sequence[float],
        spaces: Sequence[SharedSpace] | None = None,
    ) -> Figures:
        """Score a candidate on about so many held-out spots in all, the same for every candidate.

        ``spaces``, one a division, take the place of the closed form.
        """
        rows = self.rows(queries)
        predicted = self.predict(config, rows, spaces)
        effective = np.concatenate([one.n_effective for one in predicted])
        truth = [values[some] for values, some in zip(self.truth, rows, strict=True)]
        return figures(truth, [one.mean for one in predicted], plain, n_effective=float(np.median(effective)))

    def rows(self, queries: int) -> list[IdArray]:
        """Return which spots of each held-out slide are scored."""
        sizes = [len(slide.features) for split in self.divided for slide in split.held]
        share = min(1.0, queries / max(sum(sizes), 1))
        return [evenly(size, max(LEAST_QUERIES, int(np.ceil(size * share)))) for size in sizes]

    def plain(self, queries: int) -> list[float]:
        """Return the squared error of the training mean on each held-out slide."""
        rows, errors = iter(self.rows(queries)), []
        for split in self.divided:
            known = np.concatenate([np.where(s.measured, s.expression, np.nan) for s in split.rest])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a gene that none of the rest measured
                mean = np.nanmean(known, axis=0)
                for slide in split.held:
                    values = np.where(slide.measured, slide.expression, np.nan)[next(rows)]
                    errors.append(float(np.nanmean((values - mean) ** 2)))
        return errors

    def predict(
        self, config: ModelConfig, rows: Sequence[IdArray], spaces: Sequence[SharedSpace] | None = None
    ) -> list[Predicted]:
        """Predict the chosen spots of every held-out slide."""
        predicted, chosen = [], iter(rows)
        for split, space in zip(self.divided, spaces or self.spaces(config), strict=True):
            reference = MemoryReference.of(split.rest, space, config.key_mix, self.panel, config.normalisation)
            predictor = Predictor(space, config, self.panel)
            for slide in split.held:
                some = next(chosen)
                embedding = embed_patches(space, slide)[some]
                # The level is told by the whole slide.
                query = Query(embedding, slide.features, self.panel, config.normalisation, config.retrieval)
                predicted.append(predictor.predict(reference, query))
        return predicted

    def spaces(self, config: ModelConfig) -> list[SharedSpace]:
        """Return the closed form of each division, of as many directions as the settings ask for."""
        return [whole.truncated(config.shared.components) for whole in self._fitted(config)]

    def _fitted(self, config: ModelConfig) -> list[SharedSpace]:
        """Return the spaces of the divisions, which all candidates share that differ in what is not fitted."""
        shared = dataclasses.replace(
            config.shared,
            components=self.n_components,
            max_rank=min(config.shared.max_rank, MAX_RANK),
            max_landmarks=min(config.shared.max_landmarks, MAX_LANDMARKS),
        )
        key = dataclasses.astuple(shared)
        if key not in self._spaces:
            self._spaces[key] = [
                fit_shared_space(split.rest, self.layout, shared, seed=config.seed) for split in self.divided
            ]
        return self._spaces[key]


LEAST_QUERIES = 20
"""Spots of each held-out slide that are scored at least."""
