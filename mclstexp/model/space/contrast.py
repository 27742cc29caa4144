"""Refining the shared space by contrast: from the closed form onwards, kept where held-out retrieval says it pays."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mclstexp.errors import InputError
from mclstexp.model.space.fit import Standardiser, feature_basis
from mclstexp.model.space.refined import Head, HeadSizes, RefinedSpace
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import Layout, SlideArrays, spot_weights
from mclstexp.types import FloatArray, Progress

Validate = Callable[[SharedSpace], float]
"""How good a space is on slides held out, through the predictor; more is better."""

TEMPERATURES = (0.03, 0.5)
"""Bounds of the learned temperature."""

MAX_LOG_GAIN = 1.5

LEAST_UNIT = 0.25
"""Of the spots' own spread: what the network can move a component by in a step, however little the image told of it."""

MAX_LANDMARKS = 2048


@dataclass(frozen=True)
class ContrastSettings:
    """How a space is refined.

    Attributes
    ----------
    directions, slide_directions
        Principal directions of the patches' features, and of the slides' means, that the network sees.
    hidden, dropout, input_dropout
        Hidden units, and the shares of them and of the inputs dropped.
    contrast, squared
        Weights of the contrastive loss, and of the squared error that keeps components what they are.
    temperature, target_temperature
        Of the similarity of patches and spots at first (it is learned), and of that of spots among themselves, which
        says how far each spot of a batch is a positive.
    batch, lr, weight_decay, average
        Spots a step, and the optimiser's settings; ``average`` is the decay of the weights' moving mean.
    validate_every, patience
        Epochs between validations, and validations without gain before the training ends.
    """

    directions: int = 128
    slide_directions: int = 8
    hidden: int = 256
    dropout: float = 0.2
    input_dropout: float = 0.1
    contrast: float = 1.0
    squared: float = 1.0
    temperature: float = 0.1
    target_temperature: float = 0.1
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.05
    average: float = 0.98
    validate_every: int = 2
    patience: int = 3


@dataclass(frozen=True, eq=False)
class Refinement:
    """What refining came to.

    Attributes
    ----------
    space
        The best space, or None where none beat the closed form.
    epochs
        How long it was trained.
    history
        An entry a validation: ``epoch``, ``validation`` (None where it was not asked for), and past epoch 0 the mean
        losses ``contrast`` and ``squared``, the ``temperature`` and the ``seconds`` since the start.
    """

    space: RefinedSpace | None
    epochs: int
    history: list[dict[str, Any]] = field(default_factory=list)


def refine(
    space: SharedSpace,
    slides: Sequence[SlideArrays],
    layout: Layout,
    *,
    validate: Validate | None,
    epochs: int = 40,
    seed: int = 0,
    settings: ContrastSettings | None = None,
    on_progress: Progress | None = None,
) -> Refinement:
    """Refine a closed form by contrast between patches and spots, with soft targets by the spots' own similarity.

    Parameters
    ----------
    space
        The closed form, fitted to the very slides.
    slides, layout
        What to train on; visited one at a time, twice.
    validate
        Says how good a space is on other slides. The first figure is the closed form's, and the best epoch is kept.
        None trains all the epochs: the last step, once validation on some slides has said how many pay.
    epochs
        Passes over the spots, at most.
    seed
        Decides weights, batches and dropout.
    on_progress
        Called after every epoch.

    Raises
    ------
    InputError
        Without epochs or slides.

    Notes
    -----
    Two calls belong together: ``tried = refine(space, some, layout, validate=score)`` finds how many epochs pay, and
    ``refine(whole, slides, layout, validate=None, epochs=tried.epochs)`` trains on all slides.
    """
    if epochs < 1 or not slides:
        raise InputError(f"Refining takes 1 epoch and 1 slide at least, not {epochs} and {len(slides)}.")
    settings = settings or ContrastSettings()
    training = _Training(_surround(space, slides, layout, settings, seed), slides, settings, seed)
    closed_form = None if validate is None else validate(space)
    best, best_space, best_epoch, started = closed_form, None, 0, time.monotonic()
    history: list[dict[str, Any]] = [{"epoch": 0, "validation": closed_form}]
    for epoch in range(1, epochs + 1):
        losses = training.epoch(epoch)
        if on_progress:
            on_progress("refining by contrast", epoch, epochs)
        if epoch < epochs and (validate is None or epoch % settings.validate_every):
            continue
        refined = training.space()
        score = None if validate is None else validate(refined)
        seconds = round(time.monotonic() - started, 1)
        history.append({"epoch": epoch, "validation": score, **losses, "seconds": seconds})
        if score is None or best is None or score > best:
            best, best_space, best_epoch = score, refined, epoch
        elif epoch - best_epoch >= settings.patience * settings.validate_every:
            break
    return Refinement(_reported(best_space, best_epoch, closed_form, best), best_epoch, history)


def _reported(
    space: RefinedSpace | None, epochs: int, before: float | None, after: float | None
) -> RefinedSpace | None:
    """Note in the space's report how long it was trained, and what that was worth."""
    if space is None:
        return None
    validation = None if before is None or after is None else [round(before, 4), round(after, 4)]
    return dataclasses.replace(space, report={**space.report, "refined": {"epochs": epochs, "validation": validation}})


def _surround(
    space: SharedSpace, slides: Sequence[SlideArrays], layout: Layout, settings: ContrastSettings, seed: int
) -> RefinedSpace:
    """Put an untrained network around a closed form."""
    config = dataclasses.replace(
        space.config,
        max_rank=max(8, settings.directions),
        max_landmarks=min(MAX_LANDMARKS, space.config.max_landmarks),
    )
    standard = Standardiser.fit(slides, layout, config)
    own, context = (half.astype(np.float32) for half in standard.unfold(feature_basis(slides, standard, config, seed)))
    squares, n = np.zeros(own.shape[1]), 0
    for slide in slides:
        squares += (space.projected(slide.features, slide.xy_um, own, context) ** 2).sum(axis=0)
        n += len(slide.features)
    size = np.maximum(np.sqrt(squares / n), 1e-12).astype(np.float32)
    between = _slide_directions(slides, standard, settings.slide_directions)
    n_components = len(space.gain)
    sizes = HeadSizes(own.shape[1] + between.shape[1] + n_components, settings.hidden, n_components, settings.dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(sizes)
    unit = np.maximum(space.amplitude, LEAST_UNIT * _spot_spread(space, slides)).astype(np.float32)
    return RefinedSpace.around(space, own=own / size, context=context / size, slide=between, unit=unit, head=head)


def _spot_spread(space: SharedSpace, slides: Sequence[SlideArrays]) -> NDArray[np.float64]:
    """Return ``(c,)`` the spread of each component of the spots' expression; never 0."""
    spots = np.concatenate([space.spot_components(slide.expression, slide.measured) for slide in slides])
    return np.asarray(np.maximum(np.sqrt((spots.astype(np.float64) ** 2).mean(axis=0)), 1e-6))


def _slide_directions(slides: Sequence[SlideArrays], standard: Standardiser, wanted: int) -> FloatArray:
    """Return ``(F, s)`` the principal directions of the slides' means, the largest brought to unit variance."""
    means = np.stack([slide.features.mean(axis=0, dtype=np.float64) - standard.mean for slide in slides])
    _, values, directions = np.linalg.svd(means * standard.scale, full_matrices=False)
    kept = directions[: min(wanted, len(slides) // 2)].T
    size = max(float(values[0]) / math.sqrt(len(slides)), 1e-12)
    return np.asarray(kept * standard.scale[:, None] / size, dtype=np.float32)


class _Training:
    """A network in training, and the spots it is trained on."""

    def __init__(
        self, start: RefinedSpace, slides: Sequence[SlideArrays], settings: ContrastSettings, seed: int
    ) -> None:
        self.start, self.settings, self.seed = start, settings, seed
        linear = [start.linear_components(slide.features, slide.xy_um) for slide in slides]
        inputs = [start.inputs(own, s.features, s.xy_um) for own, s in zip(linear, slides, strict=True)]
        self.linear, self.inputs = _tensor(linear), _tensor(inputs)
        self.spots = _tensor([start.spot_components(slide.expression, slide.measured) for slide in slides])
        weight = _tensor(spot_weights(slides))
        self.weight = weight / weight.mean()
        # Loadings are orthonormal: components that count alike make the squared error that of expression.
        self.scale = 1.0 / max(float((start.amplitude.astype(np.float64) ** 2).sum()), 1e-12)
        self.unit, self.gain = torch.from_numpy(start.unit), torch.from_numpy(start.gain)
        self.head = start.head
        self.log_temperature = nn.Parameter(torch.tensor(math.log(settings.temperature)))
        moving_mean = get_ema_multi_avg_fn(settings.average)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(self.head, multi_avg_fn=moving_mean)
        free = [self.head.log_gain, self.log_temperature]
        decayed = [p for name, p in self.head.named_parameters() if name != "log_gain"]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        self.spread = self._spread(self.head)

    def epoch(self, number: int) -> dict[str, float]:
        """Go over the spots once; return the mean losses and the temperature."""
        self.head.train()
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + number)
            for rows in self._batches(number):
                contrast, squared = self._losses(rows)
                self.optimizer.zero_grad(set_to_none=True)
                (self.settings.contrast * contrast + self.settings.squared * squared).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
                self.optimizer.step()
                with torch.no_grad():
                    self.log_temperature.clamp_(math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
                    self.head.log_gain.clamp_(-MAX_LOG_GAIN, MAX_LOG_GAIN)
                self.averaged.update_parameters(self.head)
                losses.append((contrast.item(), squared.item()))
        contrast_mean, squared_mean = np.mean(losses, axis=0)
        temperature = math.exp(self.log_temperature.item())
        return {"contrast": float(contrast_mean), "squared": float(squared_mean), "temperature": temperature}

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield the spots in batches of one size, drawn across slides; few spots still make some steps."""
        n = len(self.linear)
        size = min(self.settings.batch, max(64, n // 8))
        order = np.random.default_rng([self.seed, epoch]).permutation(n)
        yield from map(torch.from_numpy, np.array_split(order, max(1, round(n / size))))

    def _losses(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the contrastive loss and the squared error of a batch."""
        spot, weight = self.spots[rows], self.weight[rows]
        inputs = F.dropout(self.inputs[rows], self.settings.input_dropout)
        image = self.linear[rows] + self.unit * self.head(inputs)
        squared = self.scale * (weight * ((image - spot) ** 2).sum(dim=1)).mean()
        gain = self.gain * self.head.log_gain.exp()
        logits = self._sphere(image, gain) @ self._sphere(spot, gain).T / self.log_temperature.exp()
        alike = self._sphere(spot, self.gain)
        target = (alike @ alike.T / self.settings.target_temperature).softmax(dim=1)
        return contrastive_loss(logits, target, weight), squared

    def _sphere(self, components: Tensor, gain: Tensor) -> Tensor:
        """Return unit vectors, as `SharedSpace.on_sphere` does."""
        constant = torch.full((len(components), 1), self.start.config.radius)
        return F.normalize(torch.cat([components * gain, constant], dim=1), dim=1)

    def _spread(self, head: Head) -> NDArray[np.float64]:
        """Return ``(c,)`` the spread of each component that the image predicts."""
        with torch.inference_mode():
            image = self.linear + self.unit * head.eval()(self.inputs)
            spread: NDArray[np.float64] = (self.weight[:, None] * image**2).mean(dim=0).double().sqrt().numpy()
        return spread

    def space(self) -> RefinedSpace:
        """Return the space with the network as it is now, its metric in the closed form's measure."""
        head, start = cast("Head", copy.deepcopy(self.averaged.module)), self.start
        # How much wider the training side became: the closed form's own spread was measured on what was held out.
        squared = start.amplitude.astype(np.float64) ** 2
        amplitude = np.sqrt(np.maximum(squared + self._spread(head) ** 2 - self.spread**2, squared / 4))
        gain = start.gain * np.exp(head.log_gain.detach().numpy())
        length, before = np.linalg.norm(gain * amplitude), np.linalg.norm(start.gain * start.amplitude)
        gain = gain * (before / max(float(length), 1e-12))
        return dataclasses.replace(
            start, head=head, amplitude=amplitude.astype(np.float32), gain=gain.astype(np.float32)
        )


def contrastive_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the mean cross-entropy of patches against spots and of spots against patches.

    Parameters
    ----------
    logits
        ``(n, n)`` similarity of patch i and spot j over the temperature.
    target
        ``(n, n)`` how far spot j is a positive of patch i, and patch j of spot i; rows sum to one.
    weight
        ``(n,)`` how much each counts.
    """
    to_spots = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    to_patches = -(target * logits.T.log_softmax(dim=1)).sum(dim=1)
    return (weight * (to_spots + to_patches)).mean() / 2


def _tensor(arrays: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.float32))
