"""The model card: what tells a stranger what a model is and what it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mclstexp import __version__
from mclstexp.config import ModelConfig
from mclstexp.model.calibration import Calibration
from mclstexp.panel import GenePanel
from mclstexp.slide import count_patients
from mclstexp.text import counted


def model_card(
    slides: Sequence[Mapping[str, Any]], panel: GenePanel, config: ModelConfig, calibration: Calibration | None
) -> str:
    """Return the card's text. ``slides`` are as in `mclstexp.Model.slides`."""
    n_patients = count_patients((slide["cohort"], slide["patient"], slide["slide"]) for slide in slides)
    n_spots = sum(slide["spots"] for slide in slides)
    patch, scale = config.patch, config.normalisation
    cut = "full-resolution pixels" if patch.mpp is None else f"{patch.mpp:g} um per pixel"
    lines = [
        f"# Model of recipe `{config.recipe}` (mclstexp {__version__})",
        "",
        f"Trained on {counted(len(slides), 'slide')} of {counted(n_patients, 'patient')}, {counted(n_spots, 'spot')}: "
        + ", ".join(slide["slide"] for slide in slides)
        + ".",
        f"Encoder `{config.encoder.name}`, {'fine-tuned' if config.optim.finetune else 'frozen'}; patches of "
        f"{patch.size_px} pixels at {cut}.",
        f"{len(panel)} genes; expression is log(1 + counts / total x {scale.target_sum:g}), {scale.log}, total over "
        f"{scale.total} genes.",
        f"Seed {config.seed}.",
        *([] if calibration is None else [f"Expected: {calibration.summary()}."]),
        "",
        "Predictions are estimates for research. Do not evaluate this model on the slides or patients named above:",
        "it has seen them (`mst evaluate` trains anew for every fold).",
        "",
    ]
    return "\n".join(lines)
