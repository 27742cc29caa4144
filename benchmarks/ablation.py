"""The default recipe with each part taken out, and what that costs.

    python benchmarks/ablation.py --protocols slide,b4

Every part is a name and settings: `mst evaluate --set KEY=VALUE` repeats any line. What a part sets is taken as given,
and training chooses all else anew. Intervals are not calibrated, which changes no prediction. Another pooling or number
of views is encoded anew, a minute or two each, and kept in the cache.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import _her2st as her2st
import numpy as np
from _her2st import B, C

from mclstexp.config import ModelConfig, changed, recipe

if TYPE_CHECKING:
    from mclstexp.slide import Slide

Part = tuple[str, tuple[str, ...]]
"""A name, and the settings that take the part out."""

PARTS: tuple[Part, ...] = (
    ("nothing chosen, the recipe's own values", ("choose=[]",)),
    ("last layer alone, its mean", ("encoder.pooling=last",)),
    ("mean and spread for covariance", ("encoder.pooling=stages",)),
    ("one view", ("encoder.views=1",)),
    ("early stages alone", ("shared.stages=early",)),
    ("the last layer beside all stages", ("shared.stages=with last",)),
    ("no neighbouring spots", ("shared.context_um=0",)),
    ("keys of counts alone", ("key_mix=0",)),
    ("keys of images alone", ("key_mix=1",)),
    ("no correction", ("correction=0",)),
    ("half the correction", ("correction=0.5",)),
    ("no linear probe in the blend", ("blend=0",)),
    ("depth not weighed", ("retrieval.depth_weighted=false",)),
    ("slides not levelled", ("retrieval.slide_levelled=false",)),
    ("every slide at the training mean", ("shared.level_weights=[0,0]",)),
    ("level by spots that look alike", ("shared.level_weights=[1,0]",)),
    ("level by slides that look alike", ("shared.level_weights=[0,1]",)),
    ("slides neither centred nor levelled", ("shared.shrink_spots=1e9",)),
    ("inverse square weights", ("retrieval.weights=inverse_square",)),
    ("2 components", ("shared.components=2",)),
    ("6 components", ("shared.components=6",)),
    ("20 components", ("shared.components=20",)),
    ("50 neighbours", ("retrieval.k=50",)),
    ("400 neighbours", ("retrieval.k=400",)),
    ("no caution", ("shared.caution=1",)),
)
"""Parts that stand alone. `scale_parts` and `temperature_parts` add those that depend on the recipe's own values."""

MEASURES = {"PCC all": "pcc", "HEG-50": "pcc_heg", "MSE": "mse", "MAE": "mae"}
INNER = {"inner PCC": "pcc", "inner score": "score"}
"""Figures of the inner validation that training makes its choices by, a mean over the folds."""

SIDES: dict[str, dict[str, Sequence[str]]] = {"slide": {}, "b4": {"train": C, "test": B}, "c": {"train": B, "test": C}}


def scale_parts(config: ModelConfig) -> list[Part]:
    """Leave each field of view out, and all but the patch itself; features stay as they were encoded."""
    scales = config.encoder.scales
    if len(scales) < 2:
        return []
    every = range(len(scales))
    kept_sets = [(f"no field of view x {scales[one]:g}", [i for i in every if i != one]) for one in every]
    if len(scales) > 2 and 1.0 in scales:
        kept_sets.append(("one field of view", [scales.index(1.0)]))
    return [(name, (f"shared.scales={kept}",)) for name, kept in kept_sets]


def temperature_parts(config: ModelConfig) -> list[Part]:
    """Take the recipe's temperature as given, half of it, and twice."""
    values = (config.retrieval.temperature * factor for factor in (0.5, 1.0, 2.0))
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
    return {key: spread.mean for key, spread in result.summaries[0].values.items()} | inner(result.folds)


def inner(folds: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return the inner validation's figures, a mean over folds and seeds; None where nothing was chosen."""
    recipes = [learned["recipe"] for fold in folds for learned in fold.get("learned", []) if "recipe" in learned]
    return {name: float(np.mean([one[key] for one in recipes])) if recipes else None for name, key in INNER.items()}


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
        values = [row.get(key) for key in (*MEASURES.values(), *INNER)]
        changes = ["-" if row is rows[0] else change(row.get(key), rows[0].get(key)) for key in MEASURES.values()]
        body.append([row["part"], *values, *changes, row.get("note") or " ".join(row["set"])])
    her2st.show(protocol, ["part", *MEASURES, *INNER, *(f"{name} +-" for name in MEASURES), "settings"], body)


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
