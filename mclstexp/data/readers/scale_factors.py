"""``scalefactors_json.json``: what Space Ranger says of sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mclstexp.data.paths import read_json
from mclstexp.errors import InputError

MOST = 1e12
"""No size is so large; NaN is not below it, either."""


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
    values = read_json(path, "Scale factors")
    if not isinstance(values, dict):
        raise InputError(f"Scale factors {path}: names and numbers are needed; copy the file again.")
    numbers = {str(key): value for key, value in values.items() if isinstance(value, int | float)}
    return ScaleFactors({key: float(value) for key, value in numbers.items() if abs(value) < MOST}, (path,))
