"""The model card: what tells a stranger what a model is and what it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mclstexp import __version__
from mclstexp.config import ModelConfig
from mclstexp.model.calibration import Calibration
from mclstexp.model.chosen import choice_of, choice_rule, figures_table, settings_table
from mclstexp.panel import GenePanel
from mclstexp.slide import count_patients
from mclstexp.text import counted


def model_card(
    slides: Sequence[Mapping[str, Any]],
    panel: GenePanel,
    config: ModelConfig,
    calibration: Calibration | None,
    history: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the card's text. ``slides`` and ``history`` are as in `mclstexp.Model`."""
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
        *_chosen(history),
        "Predictions are estimates for research. Do not evaluate this model on the slides or patients named above:",
        "it has seen them (`mst evaluate` trains anew for every fold).",
        "",
    ]
    return "\n".join(lines)


def _chosen(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the training chose and its inner figures, as lines of markdown."""
    choice = choice_of(history)
    if choice is None:
        return []
    verdict = [str(choice["verdict"]), ""] if choice.get("verdict") else []
    settings, figures = settings_table(choice), figures_table(choice)
    return [
        "## What training chose",
        "",
        f"Settings {choice_rule(choice)}.",
        "",
        *_table(*settings),
        *_table(*figures),
        *verdict,
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    def cell(value: object) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "/")

    if not rows:
        return []
    lines = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]
