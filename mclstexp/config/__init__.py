"""Settings: frozen dataclasses that are saved with the model and compared on load. No global settings object.

``ranges.py`` says in which range each number lies, for settings and for the command's options alike.
"""

from mclstexp.config.model import CHOICES, ModelConfig
from mclstexp.config.parts import (
    EncoderSpec,
    NetworkConfig,
    Normalisation,
    OptimConfig,
    PatchSpec,
    RetrievalConfig,
    SharedSpaceConfig,
)
from mclstexp.config.recipes import RECIPES, Settings, changed, configure, recipe

__all__ = [
    "CHOICES", "RECIPES", "EncoderSpec", "ModelConfig", "NetworkConfig", "Normalisation", "OptimConfig", "PatchSpec",
    "RetrievalConfig", "Settings", "SharedSpaceConfig", "changed", "configure", "recipe",
]  # fmt: skip
