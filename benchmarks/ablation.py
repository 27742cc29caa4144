"""The default recipe with each part taken out, and what that costs.

    python benchmarks/ablation.py --protocols slide,b4

Every part is a name and settings: `mst evaluate --set KEY=VALUE` repeats any line. Intervals are not calibrated, which
changes no prediction. Other fields of view or views are encoded anew, a minute or two each, and kept in the cache.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import _her2st as her2st
from _her2st import B, C

from mclstexp.config import ModelConfig, changed, recipe

if TYPE_CHECKING:
    from mclstexp.slide import Slide

Part = tuple[str, tuple[str, ...]]
"""A name, and the settings that take the part out."""

PARTS: tuple[Part, ...] = (
    ("last layer alone, its mean", ("encoder.pooling=last",)),
    ("mean and spread for covariance", ("encoder.pooling=stages",)),
    ("one view", ("encoder.views=1",)),
    ("no neighbouring spots", ("shared.context_um=0",)),
    ("keys of counts alone", ("key_mix=0",)),
    ("no correction", ("correction=0",)),
    ("half the correction", ("correction=0.5",)),
    ("depth not weighed", ("retrieval.depth_weighted=false",)),
    ("slides not levelled", ("retrieval.slide_levelled=false",)),
    ("no level from the image", ("shared.image_level=false",)),
    ("slides neither centred nor levelled", ("shared.shrink_spots=1e9",)),
    ("inverse square weights", ("retrieval.weights=inverse_square",)),
    ("2 components", ("shared.components=2",)),
    ("20 components", ("shared.components=20",)),
    ("50 neighbours", ("retrieval.k=50",)),
    ("no caution", ("shared.caution=1",)),
)
"""Parts that stand alone. `scale_parts` and `temperature_parts` add those that depend on the recipe's own values."""

MEASURES = {"PCC all": "pcc", "HEG-50": "pcc_heg", "MSE": "mse", "MAE": "mae"}
SIDES: dict[str, dict[str, Sequence[str]]] = {"slide": {}, "b4": {"train": C, "test": B}, "c": {"train": B, "test": C}}


def scale_parts(config: ModelConfig) -> list[Part]:
    """Take each field of view out, and all but the patch itself; context follows the scales that remain."""
    scales = config.encoder.scales
    if len(scales) < 2:
        return []
    context = config.shared.context_scales
    kept_sets = [(f"no field of view x {one:g}", [s for s in scales if s != one]) for one in scales]
    if len(scales) > 2 and 1.0 in scales:
        kept_sets.append(("one field of view", [1.0]))
    parts: list[Part] = []
    for name, kept in kept_sets:
        places = [i for i, s in enumerate(kept) if context is None or scales.index(s) in context]
        parts.append((name, (f"encoder.scales={kept}", f"shared.context_scales={places}")))
    return parts


def temperature_parts(config: ModelConfig) -> list[Part]:
    """Halve and double the temperature."""
    values = (config.retrieval.temperature * factor for factor in (0.5, 2.0))
    return [(f"temperature {value:g}", (f"retrieval.temperature={value:g}",)) for value in values]


def parts(config: ModelConfig) -> list[Part]:
    """Return every part, those whose features are the full recipe's first."""
    every = [*PARTS, *temperature_parts(config), *scale_parts(config)]
    return sorted(every, key=lambda part: any(text.startswith("encoder.") for text in part[1]))


def scored(
    options: argparse.Namespace, slides: Sequence[Slide], config: ModelConfig, label: str, protocol: str
) -> dict[str, float | None]:
    """Evaluate one set of settings on one protocol."""
    from mclstexp.evaluate.retrieval import RetrievalMethod
    from mclstexp.evaluate.run import run_evaluation

    method = RetrievalMethod(config, her2st.resources(options), her2st.SCALE)
    plan = her2st.plan(options, seeds=options.seeds, **SIDES[protocol])
    result = run_evaluation(slides, [method], plan, on_progress=her2st.pace(f"{protocol}, {label}"))
    return {key: spread.mean for key, spread in result.summaries[0].values.items()}


def run(options: argparse.Namespace, protocol: str, chosen: Sequence[Part]) -> list[dict[str, Any]]:
    """Evaluate the full recipe and each part on one protocol."""
    full = dataclasses.replace(her2st.model_config(options, "calibrate=false"), normalisation=her2st.SCALE)
    sides = SIDES[protocol]
    slides = her2st.read(options, [section for side in sides.values() for section in side] or C)
    rows: list[dict[str, Any]] = []
    for name, assignments in [("the full recipe", ()), *chosen]:
        config = changed(full, list(assignments))
        row: dict[str, Any] = {"part": name, "set": list(assignments)}
        if assignments and config == full:
            row["note"] = "already so in the recipe"
        else:
            row |= scored(options, slides, config, name, protocol)
        rows.append(row)
    return rows


def show(protocol: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a protocol's table: values, and their difference to the full recipe."""
    body = []
    for row in rows:
        values = [row.get(key) for key in MEASURES.values()]
        changes = ["-" if row is rows[0] else change(row.get(key), rows[0].get(key)) for key in MEASURES.values()]
        body.append([row["part"], *values, *changes, row.get("note") or " ".join(row["set"])])
    her2st.show(protocol, ["part", *MEASURES, *(f"{name} +-" for name in MEASURES), "settings"], body)


def change(value: float | None, full: float | None) -> str:
    """Return the cell of a difference to the full recipe."""
    return "-" if value is None or full is None else f"{value - full:+.4f}"


def main() -> None:
    parser = her2st.parser(__doc__, "ablation")
    parser.add_argument("--protocols", default="slide", help=f"Any of {', '.join(SIDES)}.")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--parts", help="Only the parts whose name or settings hold one of these, comma-separated.")
    options = her2st.parse(parser)
    options.seeds = [int(seed) for seed in her2st.split_list(options.seeds)]
    config = changed(recipe("default"), options.set)
    wanted = her2st.split_list(options.parts or "")
    chosen = [part for part in parts(config) if not wanted or any(w in " ".join((part[0], *part[1])) for w in wanted)]
    results: dict[str, Any] = {"facts": her2st.facts(options), "seeds": options.seeds, "protocols": {}}
    print(her2st.describe(results["facts"]))
    for protocol in her2st.split_list(options.protocols):
        if protocol not in SIDES:
            raise SystemExit(f"--protocols {protocol}: known are {', '.join(SIDES)}")
        rows = run(options, protocol, chosen)
        results["protocols"][protocol] = rows
        her2st.save(options, results)
        show(protocol, rows)


if __name__ == "__main__":
    main()
