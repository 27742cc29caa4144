"""The shared space refined by a network: corrections to the components that an image predicts, zero before training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mclstexp.errors import FormatError, InputError
from mclstexp.model.linear_features import Seen
from mclstexp.model.space.shared import SharedSpace
from mclstexp.types import FloatArray

INPUT_LIMIT = 5.0
"""Inputs are cut off at this many standard deviations: a strange patch is no reason for a strange answer."""

PROJECTIONS = ("project_own", "project_context", "project_slide")


@dataclass(frozen=True)
class HeadSizes:
    """Numbers of inputs, of hidden units and of components, and the share of hidden units dropped in training."""

    inputs: int
    hidden: int
    components: int
    dropout: float


class Head(nn.Module):
    """From a patch's inputs to a correction of its components: an MLP whose last layer starts at zero.

    Attributes
    ----------
    log_gain
        ``(c,)`` log of the factor on how much each component counts.
    """

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.inner = nn.Sequential(nn.Linear(sizes.inputs, sizes.hidden), nn.GELU(), nn.Dropout(sizes.dropout))
        self.out = nn.Linear(sizes.hidden, sizes.components)
        self.log_gain = nn.Parameter(torch.zeros(sizes.components))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(n, inputs)`` to ``(n, c)``."""
        return self.out(self.inner(inputs.clamp(-INPUT_LIMIT, INPUT_LIMIT)))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class RefinedSpace(SharedSpace):
    """A shared space whose image components a network corrects; with an untrained one it is the shared space itself.

    The closed form is linear and sees each patch relative to its slide. The network is not, and it sees the slide's
    own mean as well, so that what a texture says may differ from tissue to tissue.

    Attributes
    ----------
    project_own, project_context
        ``(F, r)`` from a patch's features, and from their mean over the neighbours, to inputs of the network.
    project_slide
        ``(F, s)`` from the slide's mean features to inputs.
    unit
        ``(c,)`` the size of each component that the network sees as 1.
    head
        The network.
    """

    FROM_FEATURES: ClassVar[tuple[str, ...]] = (*SharedSpace.FROM_FEATURES, *PROJECTIONS)

    project_own: FloatArray = field(kw_only=True)
    project_context: FloatArray = field(kw_only=True)
    project_slide: FloatArray = field(kw_only=True)
    unit: FloatArray = field(kw_only=True)
    head: Head = field(kw_only=True)

    @classmethod
    def around(
        cls,
        space: SharedSpace,
        *,
        own: FloatArray,
        context: FloatArray,
        slide: FloatArray,
        unit: FloatArray,
        head: Head,
    ) -> RefinedSpace:
        """Return a space with a network around it."""
        values = {field.name: getattr(space, field.name) for field in dataclasses.fields(SharedSpace)}
        return cls(**values, project_own=own, project_context=context, project_slide=slide, unit=unit, head=head.eval())

    def truncated(self, n_components: int) -> RefinedSpace:
        """Return the space itself: a network is trained for all of its components.

        Raises
        ------
        InputError
            For fewer than it has; cut the closed form before it is refined.
        """
        if n_components < len(self.gain):
            raise InputError(f"A refined space of {len(self.gain)} components cannot be cut to {n_components}.")
        return self

    @property
    def maps(self) -> tuple[FloatArray, ...]:
        """Every linear map ``(F, k)`` that is asked of a query's features."""
        return (*super().maps, self.project_own, self.project_context)

    def image_components(self, features: Seen, xy_um: NDArray[np.float64]) -> FloatArray:
        """Return the components ``(n, c)`` float32 predicted from one whole slide's features and positions."""
        linear = self.linear_components(features, xy_um)
        inputs = torch.from_numpy(self.inputs(linear, features, xy_um))
        with torch.inference_mode():
            correction = self.head(inputs).numpy().astype(np.float64)
        return self.narrowed(linear + self.unit * correction)

    def inputs(self, linear: NDArray[np.float64], features: Seen, xy_um: NDArray[np.float64]) -> FloatArray:
        """Return the network's inputs ``(n, c + r + s)`` float32.

        Parameters
        ----------
        linear
            ``(n, c)`` `linear_components` of the slide.
        features, xy_um
            ``(n, F)`` features and ``(n, 2)`` positions of all the slide's spots.
        """
        patch = self.projected(features, xy_um, self.project_own, self.project_context)
        apart = self.feature_centre(features) - self.feature_mean
        slide = np.broadcast_to(apart @ self.project_slide, (len(features), self.project_slide.shape[1]))
        return np.concatenate([linear / self.unit, patch, slide], axis=1, dtype=np.float32)

    def summary(self) -> list[str]:
        """Say what the closed form found, and what the network was worth on what was held out."""
        found = self.report["refined"]
        worth = ""
        if found["validation"] is not None:
            before, after = found["validation"]
            worth = f": {after:.3f} on held-out slides, {before:.3f} without it"
        return [*super().summary(), f"refined by contrast, {found['epochs']} epochs{worth}"]

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays and the facts that rebuild the space."""
        arrays, facts = super().state()
        arrays |= {f"refined.{name}": getattr(self, name) for name in (*PROJECTIONS, "unit")}
        arrays |= {f"refined.head.{name}": tensor.numpy() for name, tensor in self.head.state_dict().items()}
        return arrays, {**facts, "refined": dataclasses.asdict(self.head.sizes)}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> RefinedSpace:
        """Rebuild a space.

        Raises
        ------
        FormatError
            When an array or a fact is missing.
        """
        base = SharedSpace.from_state(arrays, facts)
        prefix = "refined.head."
        try:
            head = Head(HeadSizes(**facts["refined"]))
            weights = {n.removeprefix(prefix): torch.from_numpy(a.copy()) for n, a in arrays.items() if prefix in n}
            head.load_state_dict(weights)
            own, context, slide, unit = (arrays[f"refined.{name}"] for name in (*PROJECTIONS, "unit"))
        except (KeyError, TypeError, RuntimeError) as error:
            raise FormatError(
                f"The model's refined space is incomplete ({' '.join(str(error).split())}); train it anew."
            ) from error
        return cls.around(base, own=own, context=context, slide=slide, unit=unit, head=head)
