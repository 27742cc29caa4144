"""How often misplaced spots are refused, and true placements are not.

    python benchmarks/placement.py --data ../shared -o placement.json

On the real sections whose images are there: spots mirrored, turned, exchanged, shifted by 0.5 to 2 mm, scaled by 0.7 to
0.9 and 1.1 to 1.3, turned by 3 to 15 degrees, each moved by less than a spot besides; and true placements, moved by
less than a spot. The thresholds of ``mclstexp.data.positions.placement`` were chosen on the sections of ``CHOSEN_ON``;
what is reported is of the others. On invented tissue: placements that are right although the spots do not repeat the
tissue's outline, none of which may be refused.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images import open_image
from mclstexp.data.positions.files import parse_coords
from mclstexp.data.positions.lattice import pitch_px
from mclstexp.data.positions.placement import judge
from mclstexp.data.positions.tissue import tissue_mask
from mclstexp.types import BoolArray

Points = NDArray[np.float64]

CHOSEN_ON = ("B4", "C2", "C3", "MOB1")
REPORTED = ("C5", "C6", "MOB2")
ROUNDS = 200
SPOT_SHARE = 0.5
"""Diameter of a spot over the pitch: a true placement is moved by less."""

MOB_PITCH_UM, HER2ST_PITCH_UM = 150.0, 200.0


@dataclass(frozen=True)
class Section:
    """A section's tissue, the size of its image, its spots, and full-resolution pixels a um."""

    name: str
    mask: BoolArray
    size: tuple[int, int]
    xy: Points
    px_per_um: float


def sections(data: Path, names: tuple[str, ...]) -> Iterator[Section]:
    """Read the sections' tissue and spots."""
    for name in names:
        if name.startswith("MOB"):
            path, coords, pitch_um = data / f"mob/{name}.jpg", data / f"mob/alignment_table_{name}.tsv", MOB_PITCH_UM
        else:
            path = next((data / "her2st/ST-imgs" / name[0] / name).glob("*.jpg"))
            coords, pitch_um = data / f"her2st/ST-spotfiles/{name}_selection.tsv", HER2ST_PITCH_UM
        with open_image(path) as image:
            xy = parse_coords(coords).xy
            pitch = pitch_px(xy)
            if pitch is None:
                raise SystemExit(f"{coords} has one spot")
            yield Section(name, tissue_mask(image), image.size_px, xy, pitch / pitch_um)


def turn(xy: Points, degrees: float, centre: Points) -> Points:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray((xy - centre) @ matrix.T + centre)


def shifted(section: Section, rng: np.random.Generator) -> Points:
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(500, 2000) * section.px_per_um
    return section.xy + distance * np.array([np.cos(angle), np.sin(angle)])


def scaled(section: Section, rng: np.random.Generator, scales: tuple[float, float], about: str) -> Points:
    """Return the spots at another scale, about the image's centre or that of the tissue's box."""
    centre = np.array(section.size) / 2
    if about == "tissue":
        sides = np.array(section.mask.shape[::-1])
        ends = [np.flatnonzero(section.mask.any(axis=axis))[[0, -1]] for axis in (0, 1)]
        centre = np.array([np.mean(end) + 0.5 for end in ends]) / sides * section.size
    return np.asarray((section.xy - centre) * rng.uniform(*scales) + centre)


KINDS: dict[str, Callable[[Section, np.random.Generator], Points]] = {
    "true": lambda s, rng: s.xy,
    "mirrored in x": lambda s, rng: s.xy * (-1, 1) + (s.size[0], 0),
    "mirrored in y": lambda s, rng: s.xy * (1, -1) + (0, s.size[1]),
    "turned by 90": lambda s, rng: turn(s.xy, 90, np.array(s.size) / 2),
    "x and y exchanged": lambda s, rng: s.xy[:, ::-1],
    "shifted 0.5 to 2 mm": shifted,
    "scaled 0.7 to 0.9": lambda s, rng: s.xy * rng.uniform(0.7, 0.9),
    "the same, about the image's centre": lambda s, rng: scaled(s, rng, (0.7, 0.9), "image"),
    "the same, about the tissue's centre": lambda s, rng: scaled(s, rng, (0.7, 0.9), "tissue"),
    "scaled 1.1 to 1.3": lambda s, rng: s.xy * rng.uniform(1.1, 1.3),
    "the same, about the image's centre ": lambda s, rng: scaled(s, rng, (1.1, 1.3), "image"),
    "the same, about the tissue's centre ": lambda s, rng: scaled(s, rng, (1.1, 1.3), "tissue"),
    "turned 3 to 15 degrees": lambda s, rng: turn(s.xy, rng.choice([-1, 1]) * rng.uniform(3, 15), np.array(s.size) / 2),
}


def moved(section: Section, kind: str, rng: np.random.Generator) -> Points:
    """Return the spots misplaced, and moved by less than a spot."""
    spot = SPOT_SHARE * (pitch_px(section.xy) or 0.0)
    angle, distance = rng.uniform(0, 2 * np.pi), spot * np.sqrt(rng.uniform())
    return KINDS[kind](section, rng) + distance * np.array([np.cos(angle), np.sin(angle)])


def verdict(section: Section, xy: Points) -> str:
    """Return what the command would say: spots outside the image are refused before anything else."""
    if ((xy < 0) | (xy > section.size)).any():
        return "outside"
    return judge(section.mask, section.size, xy).verdict


def real(data: Path, names: tuple[str, ...], rounds: int) -> dict[str, dict[str, int]]:
    """Count the verdicts of each kind, ``rounds`` over all sections."""
    opened = list(sections(data, names))
    counts: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        rng = np.random.default_rng(0)
        drawn = [opened[i % len(opened)] for i in range(rounds)]
        counts[kind] = dict(Counter(verdict(section, moved(section, kind, rng)) for section in drawn))
    return counts


def invented_tissue(rng: np.random.Generator, side: int = 512, share: float = 0.4) -> BoolArray:
    """Return a ragged piece of tissue with holes."""
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[:side, :side] / side - 0.5
    near = -4 * np.hypot(x * rng.uniform(0.8, 1.6), y * rng.uniform(0.8, 1.6))
    coarse, fine = (gaussian_filter(rng.standard_normal((side, side)), sigma) * sigma for sigma in (40, 6))
    field = near + 1.5 * coarse / coarse.std() * 0.4 + 0.15 * fine / fine.std()
    return np.asarray(field > np.quantile(field, 1 - share))


def square(rng: np.random.Generator, side: int, width: float, pitch: float) -> Points:
    """Return a whole array somewhere on the picture, a little turned."""
    start = rng.uniform(0, side - width, 2)
    axis = np.arange(pitch / 2, width, pitch)
    xy = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2) + start
    return np.clip(turn(xy, rng.uniform(-4, 4), start + width / 2), 0, side - 1e-3)


def on(mask: BoolArray, xy: Points) -> BoolArray:
    return np.asarray(mask[xy[:, 1].astype(int), xy[:, 0].astype(int)])


def simulated(rounds: int) -> dict[str, dict[str, int]]:
    """Count the verdicts on true placements of spots that repeat the tissue's outline in part, or not at all."""
    counts: dict[str, Counter[str]] = {}
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        mask, side = invented_tissue(rng), 512
        width, pitch = rng.uniform(150, 250), rng.uniform(5, 9)
        array = square(rng, side, width, pitch)
        while on(mask, array).sum() < 60:
            array = square(rng, side, width, pitch)
        region = invented_tissue(rng, share=0.2)
        everywhere = square(rng, side, side - 40.0, pitch)
        kinds = {
            "a whole array, on tissue or not": array,
            "an array's spots on tissue, the tissue larger": array[on(mask, array)],
            "a small array within the tissue": array[on(mask, array)][:400],
            "a marked region of the tissue": everywhere[on(mask, everywhere) & on(region, everywhere)],
            "all spots on tissue": everywhere[on(mask, everywhere)],
        }
        for kind, xy in kinds.items():
            counts.setdefault(kind, Counter())[judge(mask, (side, side), xy).verdict] += 1
    return {kind: dict(counter) for kind, counter in counts.items()}


def table(title: str, counts: dict[str, dict[str, int]]) -> str:
    """Return the counts as a Markdown table."""
    rows = [f"| {title} | refused | warned | passed |", "|---|---|---|---|"]
    for kind, verdicts in counts.items():
        refused = verdicts.get("wrong", 0) + verdicts.get("outside", 0)
        passed = verdicts.get("right", 0) + verdicts.get("unknown", 0)
        rows.append(f"| {kind} | {refused} | {verdicts.get('doubtful', 0)} | {passed} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="The folder that holds her2st/ and mob/.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {
        "chosen on " + ", ".join(CHOSEN_ON): real(options.data, CHOSEN_ON, options.rounds),
        "reported on " + ", ".join(REPORTED): real(options.data, REPORTED, options.rounds),
        "invented tissue, true placements": simulated(options.rounds),
    }
    for title, counts in results.items():
        print(table(title, counts), end="\n\n")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
