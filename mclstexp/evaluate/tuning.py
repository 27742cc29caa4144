"""Nested choice of settings: on each training side alone, by leaving parts of it out."""

from __future__ import annotations

import dataclasses
import itertools
import json
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mclstexp.config import ModelConfig, Normalisation, changed
from mclstexp.errors import InputError
from mclstexp.evaluate.folds import Fold, SplitSpec, make_folds
from mclstexp.evaluate.methods import Choice, Method, without_counts
from mclstexp.evaluate.scores import MethodPrediction, SlideTruth
from mclstexp.metrics import mean_or_none, score_genes
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide

MAX_COMBINATIONS = 32
"""Combinations of settings that a tuning may try; each is fitted once an inner fold."""

MIN_GROUPS = 3
"""Patients (or cohorts, folds) that must train for the inner folds to hold out one of them; below it, single slides."""

_NOT_TUNED = {
    "recipe": "it names the recipe",
    "seed": "use --seeds",
    "n_genes": "the panel is the protocol's",
    "calibrate": "it changes no prediction",
    "interval_level": "it changes no prediction",
}

_BETWEEN = "," + string.whitespace

Settings = tuple[str, ...]
"""``dotted.key=value`` assignments."""


def parse_grid(texts: Sequence[str]) -> tuple[Settings, ...]:
    """Return every combination of ``dotted.key=v1,v2,...`` lists (values as JSON, else text), in the given order.

    Raises
    ------
    InputError
        When one is not of that form, has fewer than two values, repeats a key or a value, names what is not tuned, or
        there are more combinations than `MAX_COMBINATIONS`.
    """
    lists: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--tune {text!r} is not of the form dotted.key=v1,v2; such as retrieval.k=100,400.")
        if key in _NOT_TUNED:
            raise InputError(f"--tune cannot choose {key!r}: {_NOT_TUNED[key]}.")
        if key in lists:
            raise InputError(f"--tune names {key!r} twice; give all its values in one list.")
        choices = [json.dumps(value) for value in _values(values)]
        if len(choices) < 2:
            raise InputError(
                f"--tune {text!r} gives {len(choices)} value and leaves nothing to choose; use --set for one."
            )
        # 1 and 1.0 are one number; 1 and true are not.
        if len({json.dumps(json.loads(value, parse_int=float)) for value in choices}) < len(choices):
            raise InputError(f"--tune {text!r} gives a value twice.")
        lists[key] = choices
    size = int(np.prod([len(values) for values in lists.values()], dtype=np.int64)) if lists else 0
    if size > MAX_COMBINATIONS:
        raise InputError(f"--tune makes {size} combinations of settings; at most {MAX_COMBINATIONS} are tried.")
    keyed = [[f"{key}={value}" for value in values] for key, values in lists.items()]
    return tuple(itertools.product(*keyed)) if keyed else ()


def _values(text: str) -> list[Any]:
    """Read comma-separated values one by one, each as JSON where it is, else as text; empty ones are left out."""
    parsed: list[Any] = []
    rest = text.strip().lstrip(_BETWEEN)
    while rest:
        value, end = _json_value(rest)
        if end is None:
            value, end = rest.partition(",")[0].strip(), rest.find(",")
            end = len(rest) if end < 0 else end
        parsed.append(value)
        rest = rest[end:].lstrip(_BETWEEN)
    return parsed


def _json_value(text: str) -> tuple[Any, int | None]:
    """Return the JSON value that the text begins with and its end; no end unless a comma or nothing follows."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        value, end = json.JSONDecoder(parse_constant=refuse).raw_decode(text)
    except (ValueError, RecursionError):
        return None, None
    return value, end if text[end:].strip()[:1] in ("", ",") else None


def inner_folds(train: Sequence[Slide], split: SplitSpec) -> tuple[list[Fold], str]:
    """Divide a training side by the outer split's rule where enough groups remain, else by slide.

    Returns
    -------
    list of Fold, str
        The folds, empty where only one slide with an image trains; and the rule in words.
    """
    with_image = [slide for slide in train if slide.image is not None]
    if len(with_image) < 2:
        return [], "one training slide leaves nothing to choose on: the recipe's own settings are kept"
    named = {slide.slide_id for slide in train}
    given = tuple(pair for pair in split.folds if pair[0] in named)
    fold_of = dict(given)

    def group(slide: Slide) -> str:
        if given:
            return fold_of[slide.slide_id]
        return {"patient": slide.patient, "cohort": slide.cohort, "slide": slide.slide_id}[split.by]

    groups = {group(slide) for slide in with_image}
    what = "given fold" if given else split.by
    if len(groups) >= MIN_GROUPS and all(group(slide) for slide in train):
        spec = SplitSpec(by=split.by, folds=given)
        return make_folds(train, spec)[0], f"inner folds leave one {what} out"
    rule = "inner folds leave one slide out"
    if what != "slide":
        rule += f" (a {what} each would need {MIN_GROUPS} that train and are named, here are {len(groups - {''})})"
    return make_folds(train, SplitSpec(by="slide"))[0], rule


class TunedMethod:
    """A recipe whose settings are chosen anew on every training side, by mean PCC of all genes on its inner folds.

    The test side never reaches it: it is given the training side alone, and predicts with settings that were fixed
    before. The inner fits go through the very method that predicts.

    Parameters
    ----------
    config
        The recipe, changed by each of ``grid`` in turn.
    grid
        Combinations of settings, as `parse_grid` gives them. A tie goes to the first.
    make
        Builds the method of a config.
    split
        The outer split, whose rule the inner folds follow.

    Raises
    ------
    InputError
        When a setting of the grid is unknown or of the wrong type.
    """

    deterministic = False

    def __init__(
        self, config: ModelConfig, grid: Sequence[Settings], make: Callable[[ModelConfig], Method], split: SplitSpec
    ) -> None:
        self.config, self._make, self._split = config, make, split
        self._candidates = [(settings, changed(config, list(settings))) for settings in grid]
        self._method = make(config)
        self.choice: Choice | None = None

    @property
    def name(self) -> str:
        """Name of the recipe, and that it was tuned."""
        return f"{self.config.recipe}, tuned"

    @property
    def uses_counts_only(self) -> bool:
        """As the recipe's method."""
        return self._method.uses_counts_only

    @property
    def normalisation(self) -> Normalisation:
        """As the recipe's method."""
        return self._method.normalisation

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Choose the settings on the training slides, then fit with them on all of these."""
        folds, rule = inner_folds(train, self._split)
        if not folds:
            self.choice = Choice(settings=(), rule=rule, scores=())
            chosen = self.config
        else:
            truths = {s.slide_id: SlideTruth.of(s, panel, self.normalisation) for fold in folds for s in fold.test}
            scores = [self._score(config, folds, truths, panel, seed=seed) for _, config in self._candidates]
            best = max(range(len(scores)), key=lambda i: (-np.inf if scores[i] is None else scores[i], -i))
            settings, chosen = self._candidates[best]
            if scores[best] is None:
                settings, chosen = (), self.config
                rule += ", where no combination could be scored: the recipe's own settings are kept"
            scored = tuple((names, score) for (names, _), score in zip(self._candidates, scores, strict=True))
            self.choice = Choice(settings=settings, rule=rule, scores=scored)
        self._method = self._make(chosen)
        self._method.fit(train, panel, seed=seed)

    def predict(self, slide: Slide) -> MethodPrediction:
        """Predict with the chosen settings."""
        return self._method.predict(slide)

    def _score(
        self, config: ModelConfig, folds: Sequence[Fold], truths: dict[str, SlideTruth], panel: GenePanel, *, seed: int
    ) -> float | None:
        """Mean over the inner folds' held-out slides of the mean PCC of all genes."""
        scores = []
        for fold in folds:
            # Intervals take a cross-validation of their own and decide nothing here.
            method = self._make(dataclasses.replace(config, calibrate=False))
            method.fit(fold.train if method.uses_counts_only else fold.train_with_image, panel, seed=seed)
            for slide in fold.test:
                predicted = method.predict(without_counts(slide)).mean
                pcc = mean_or_none(score_genes(truths[slide.slide_id].expression, predicted).pcc)
                scores.append(np.nan if pcc is None else pcc)
        return mean_or_none(scores)
