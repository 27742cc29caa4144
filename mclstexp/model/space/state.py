"""A model's space from its arrays and facts."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from mclstexp.config import ModelConfig
from mclstexp.model.network.layers import ContrastiveNetwork
from mclstexp.model.network.space import NetworkSpace
from mclstexp.model.space.base import Space
from mclstexp.model.space.shared import SharedSpace
from mclstexp.panel import GenePanel


def space_from_state(
    config: ModelConfig, panel: GenePanel, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]
) -> Space:
    """Rebuild a model's space from its arrays and facts."""
    if config.space == "shared":
        return SharedSpace.from_state(arrays, facts)
    rows, cols = facts["array_shape"]
    network = ContrastiveNetwork(facts["n_features"], len(panel), (rows, cols), config.network)
    state = {name.removeprefix("network."): v for name, v in arrays.items() if name.startswith("network.")}
    network.load_state_dict({name: torch.from_numpy(v.copy()) for name, v in state.items()})
    return NetworkSpace(network.eval())
