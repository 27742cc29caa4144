"""What a training chose and by which figures, read from a model's history; whatever is absent is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIGURES = {"pcc": "PCC within slides", "pcc_pooled": "PCC pooled", "mse": "MSE", "score": "score"}
"""The inner figures of a choice by their key, in words."""

LISTED = 6
"""So many numbers in a row are listed; of more, the first and the last."""

BARS = "▁▂▃▄▅▆▇█"


def choice_of(history: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the record of a nested choice in a model's history, or None."""
    records = [entry["choice"] for entry in history if isinstance(entry.get("choice"), dict)]
    return records[-1] if records else None


def settings_table(choice: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Return header and rows, a row a setting: what was chosen, the values tried, and the score at each as bars."""
    curves = {name: curve for curve in choice.get("curves", []) for name in _settings_of(curve)}
    chosen = dict(choice.get("settings", {}))
    rows: list[list[object]] = []
    for name in dict.fromkeys([*chosen, *curves]):
        curve = curves.get(name, {})
        row = [name, _text(chosen.get(name, _value(curve, name))), _tried(_values(curve, name))]
        rows.append([*row, sparkline(curve.get("score", []))])
    return ["setting", "chosen", "tried", "score"], rows


def figures_table(choice: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Return header and rows, the recipe and each baseline, by their figures on what was held out inside training."""
    parties = {"recipe": choice.get("recipe") or {}, **(choice.get("baselines") or {})}
    rows: list[list[object]] = [
        [name, *((values or {}).get(key) for key in FIGURES)] for name, values in parties.items() if values
    ]
    return ["held out inside training", *FIGURES.values()], rows


def choice_rule(choice: Mapping[str, Any]) -> str:
    """Say in words how the training side was divided."""
    kinds = {"patient": "patients", "slide": "slides", "block": "quarters of a slide"}
    held_out = kinds.get(str(choice.get("held_out")), "parts of the training slides")
    folds = choice.get("n_folds")
    return f"chosen on {held_out} held out" + (f", {folds} folds" if folds else "")


def sparkline(values: Sequence[float | None]) -> str:
    """Draw numbers as bars of text, the lowest smallest; a gap where there is none."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    steps = len(BARS) - 1
    return "".join(
        " " if value is None else BARS[round(steps * (float(value) - low) / span) if span > 0 else steps]
        for value in values
    )


def _settings_of(curve: Mapping[str, Any]) -> list[str]:
    """Return the settings whose values a curve tried, together where there are several."""
    return list(curve.get("settings") or ([curve["setting"]] if curve.get("setting") else []))


def _values(curve: Mapping[str, Any], name: str) -> list[Any]:
    """Return the values that were tried of one setting."""
    values, settings = list(curve.get("values", [])), _settings_of(curve)
    if len(settings) < 2:
        return values
    return [together[settings.index(name)] for together in values]


def _value(curve: Mapping[str, Any], name: str) -> Any:
    values, place = _values(curve, name), curve.get("chosen")
    return values[place] if isinstance(place, int) and 0 <= place < len(values) else None


def _tried(values: Sequence[Any]) -> str:
    """List values, of many whole numbers in a row the first and the last."""
    first = values[0] if values else None
    if len(values) > LISTED and isinstance(first, int) and list(values) == list(range(first, first + len(values))):
        return f"{first} to {values[-1]}"
    return ", ".join(_text(value) for value in values)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)
