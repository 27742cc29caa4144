"""``scalefactors_json.json``: what Space Ranger says of sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from mclstexp.errors import InputError


@dataclass(frozen=True)
class ScaleFactors:
    """Numbers by name, and the file that they are from (none where there is none)."""

    values: dict[str, float] = field(default_factory=dict)
    sources: tuple[Path, ...] = ()


def read_scale_factors(outs: Path, below: str = "spatial") -> ScaleFactors:
    """Read the scale factors in a folder's ``spatial/``, or where ``below`` says; none where there is no such file.

    Raises
    ------
    InputError
        When the file is damaged.
    """
    path = next(iter(sorted((outs / below).glob("*scalefactors_json.json"))), None)
    if path is None:
        return ScaleFactors()
    try:
        values = json.loads(path.read_text())
        numbers = {str(key): float(value) for key, value in values.items() if isinstance(value, int | float)}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}.") from error
    return ScaleFactors(numbers, (path,))
