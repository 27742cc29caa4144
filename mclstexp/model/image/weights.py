"""Where an encoder's weights come from: timm's hub, a .safetensors file, or a seed."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlparse

import timm
import torch
from huggingface_hub import constants as hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mclstexp.data.paths import require_file
from mclstexp.errors import InputError, WeightsError
from mclstexp.model.image.stages import cut, tensors_of_stages
from mclstexp.notes import inform
from mclstexp.text import counted
from mclstexp.types import EncoderWeights

Weights = Path | Literal["pretrained", "random"]
"""One encoder's weights."""

_COUNTER = "num_batches_tracked"
"""A tensor that BatchNorm counts with; many files leave it out, and nothing depends on it."""


def weights_for(given: EncoderWeights, n_encoders: int) -> tuple[Weights, ...]:
    """Return one source of weights for each encoder.

    Raises
    ------
    InputError
        When there are not as many as there are encoders; ``pretrained`` and ``random`` serve any number.
    """
    if isinstance(given, str) and "," in given and not Path(given).is_file():
        given = [part.strip() for part in given.split(",")]
    parts = [given] if isinstance(given, str | os.PathLike) else list(given)
    sources = tuple(cast("Weights", part) if part in ("pretrained", "random") else Path(part) for part in parts)
    if len(sources) == 1 and not isinstance(sources[0], Path):
        return sources * n_encoders
    if len(sources) != n_encoders or any(not str(part) for part in parts):
        raise InputError(
            f"{counted(n_encoders, 'encoder')} (--encoder), but weights of {len(sources)} (--encoder-weights): give "
            "one for each, with commas between: a file, pretrained or random."
        )
    return sources


def new_model(name: str, *, pretrained: bool, seed: int) -> nn.Module:
    """Return a timm model without its classifier, its weights from the hub or from a seed.

    Raises
    ------
    InputError, WeightsError
        When the model is unknown; when its pretrained weights cannot be had.
    """
    torch.manual_seed(seed)
    keywords: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    try:
        with _hub() if pretrained or name.startswith("hf-hub:") else nullcontext():
            model: nn.Module = timm.create_model(name, **keywords)
            return model.eval()
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"The weights of encoder {name[:100]!r} could not be downloaded ({type(error).__name__}); "
            "on a machine without internet give them with --encoder-weights FILE."
        ) from error
    except (RuntimeError, ValueError, TypeError, LookupError) as error:  # hf-hub's refusal of a name is a ValueError
        shown, why = (f"{text[:100]}..." if len(text) > 100 else text for text in (name, str(error)))
        raise InputError(f"Encoder {shown!r} could not be made ({why}); any timm or hf-hub: name will do.") from error


def load_weights(model: nn.Module, path: Path, name: str) -> int | None:
    """Load a file into a model; where it holds the first stages alone, the model is cut to them, which is said.

    Returns
    -------
    How many stages are left of the model, or None where it is whole.

    Raises
    ------
    InputError
        When the file is missing, damaged, or does not fit the model.
    """
    path = require_file(path, "Encoder weights")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a readable .safetensors file ({error}); pickled weights are refused, convert them."
        ) from error
    known = model.state_dict()
    trunk = load_state(model, {key: tensor for key, tensor in state.items() if key in known}, name, str(path))
    if trunk is None:
        return None
    inform(f"{path.name} holds the first {trunk[0]} of {trunk[1]} stages of {name}: only these are computed and pooled")
    return trunk[0]


def load_state(model: nn.Module, state: dict[str, Tensor], name: str, source: str) -> tuple[int, int] | None:
    """Load named tensors into a model, which is cut to the stages that they cover.

    Returns
    -------
    How many stages are left and how many there were, or None where the model is whole.

    Raises
    ------
    InputError
        When tensors are missing that are not the last ones, are of another shape, or are none of the model's.
    """
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith(_COUNTER)]
    wrong = [key for key in state if key not in wanted or _shape(state[key]) != _shape(wanted[key])]
    stages = tensors_of_stages(model) if missing and not wrong else []
    n_stages = _covered(wanted, stages, set(missing))
    if wrong or (missing and not n_stages):
        raise InputError(
            f"{source} does not fit encoder {name!r}: {len(missing)} of {len(wanted)} tensors missing, {len(wrong)} of "
            f"another shape (for example {(missing + wrong)[0]!r}); check --encoder."
        )
    if n_stages:
        cut(model, n_stages)
    left = model.state_dict()
    model.load_state_dict({key: tensor for key, tensor in state.items() if key in left}, strict=False)
    return (n_stages, len(stages)) if n_stages else None


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape, one number as a list of one: that is how numpy keeps it."""
    return tuple(tensor.shape) or (1,)


def _covered(tensors: Collection[str], stages: Sequence[frozenset[str]], missing: set[str]) -> int:
    """Return how many stages need none of the missing tensors; 0 where a tensor after a missing one is there."""
    covered = sum(not stage & missing for stage in stages)
    if not covered:
        return 0
    rest = [key for key in tensors if not key.endswith(_COUNTER) and key not in stages[covered - 1]]
    rest.sort(key=lambda key: sum(key not in stage for stage in stages))  # stable: within a stage, as timm lists them
    first = next(place for place, key in enumerate(rest) if key in missing)
    return covered if missing.issuperset(rest[first:]) else 0


@contextmanager
def _hub() -> Iterator[None]:
    """Take from the hub's local cache alone where its name cannot be resolved: its client would try for a minute."""
    before = hub.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(urlparse(hub.ENDPOINT).hostname, None)
    except OSError:
        hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
