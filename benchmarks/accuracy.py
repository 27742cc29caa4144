"""Accuracy on HER2+ beside the baselines: within a patient, across two patients, and from both together.

    python benchmarks/accuracy.py --seeds 0,1,2 --recipes default,paper,paper-code

Protocols: `slide` leaves one section of patient C out; `b4` trains on the four of C and tests on B4; `c` trains on B4
and tests on the four; `mixed` leaves a section of C out and trains the default recipe on the others with and without
B4, whose spots hold a third of the counts. `mob` leaves one of two sections of a mouse's olfactory bulb out, and
`mob-foreign` puts the bulb into a HER2+ reference and asks one about it (not run unless named). 785 genes given by
file, for `mob` 500 highly variable ones; every method is scored on the same scale. A table a protocol is printed, and
everything is written to benchmarks/results/accuracy.json.

    python benchmarks/accuracy.py --encoder tf_efficientnet_lite0,vgg16 --set "encoder.input_px=[224,112]"
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import _her2st as her2st
import _mob as mob
import numpy as np
from _her2st import B, C

from mclstexp.errors import InputError

if TYPE_CHECKING:
    from mclstexp.config import Normalisation
    from mclstexp.evaluate.methods import Method
    from mclstexp.evaluate.result import EvaluationResult
    from mclstexp.evaluate.scores import MethodPrediction
    from mclstexp.metrics import Floats
    from mclstexp.panel import GenePanel
    from mclstexp.slide import Slide

PROTOCOLS = ("slide", "b4", "c", "mixed", "mob", "mob-foreign")
DEFAULT_PROTOCOLS = PROTOCOLS[:4]
MEASURES = {
    "PCC": "pcc",
    "pooled": "pooled_pcc",
    "MSE": "mse",
    "HEG-50": "pcc_heg",
    "HVG-50": "pcc_hvg",
    "MAE": "mae",
    "bias": "bias",
}
INTERVALS = {"coverage": "coverage", "width": "interval_width", "pinball": "pinball", "constant": "pinball_constant"}
RELATIVE_TO = ("paper", "linear probe", "linear probe, own features")

Row = dict[str, Any]
"""One method on one held-out slide with one seed: protocol's and slide's names, and the measures by key."""


@dataclass
class Levelled:
    """A method that also notes, by slide and seed, its panel and each gene's mean prediction ``(G,)`` over spots."""

    method: Method
    name: str
    level: dict[str, tuple[GenePanel, Floats]] = field(default_factory=dict)
    seed: int = 0
    panel: GenePanel | None = None

    @property
    def deterministic(self) -> bool:
        """As the method's."""
        return self.method.deterministic

    @property
    def uses_counts_only(self) -> bool:
        """As the method's."""
        return self.method.uses_counts_only

    @property
    def normalisation(self) -> Normalisation:
        """As the method's."""
        return self.method.normalisation

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Fit the method."""
        self.seed, self.panel = seed, panel
        self.method.fit(train, panel, seed=seed)

    def predict(self, slide: Slide) -> MethodPrediction:
        """Predict, and note the level."""
        if self.panel is None:
            raise InputError(f"Method {self.name} was asked to predict before it was fitted.")
        prediction = self.method.predict(slide)
        self.level[f"{slide.slide_id} {self.seed}"] = self.panel, prediction.mean.mean(axis=0, dtype=np.float64)
        return prediction


def evaluated(
    options: argparse.Namespace,
    slides: Sequence[Slide],
    methods: Sequence[tuple[str, Method]],
    label: str,
    **plan: Any,
) -> tuple[list[Row], EvaluationResult]:
    """Run one split (``plan``: what `her2st.plan` takes), and return a row a slide, method and seed."""
    from mclstexp.evaluate.run import run_evaluation

    protocol = her2st.plan(options, seeds=options.seeds, **plan)
    wrapped = [Levelled(method, name) for name, method in methods]
    result = run_evaluation(slides, wrapped, protocol, on_progress=her2st.pace(label))
    by_name = {slide.slide_id: slide for slide in slides}
    rows = []
    for score in result.scores:
        (method,) = (one for one in wrapped if one.name == score.method)
        seed = options.seeds[0] if score.seed is None else score.seed
        level, measured = levels(by_name[score.slide_id], *method.level[f"{score.slide_id} {seed}"])
        row: Row = {"slide": score.slide_id, "method": score.method, "seed": score.seed, "spots": score.n_spots}
        row |= score.values
        rows.append({**row, "level": level, "bias": level - measured})
    return rows, result


def levels(slide: Slide, panel: GenePanel, predicted: Floats) -> tuple[float, float]:
    """Return the mean predicted and measured expression of a slide over the genes that are known on both sides.

    ``predicted`` ``(G,)`` is each gene's mean over spots, on the protocol's scale; NaN where the method has none.
    """
    from mclstexp.evaluate.scores import SlideTruth

    measured = SlideTruth.of(slide, panel, her2st.SCALE).expression.mean(axis=0, dtype=np.float64)
    known = ~np.isnan(predicted) & ~np.isnan(measured)
    return float(predicted[known].mean()), float(measured[known].mean())


def summary(rows: Sequence[Row]) -> list[Row]:
    """Reduce rows to one a method: mean over slides and seeds, spread of the seeds' means, and ratios."""
    lines: list[Row] = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        line: Row = {"method": method, "slides": len({row["slide"] for row in own})}
        for key in (*MEASURES.values(), *INTERVALS.values()):
            line[key] = mean([row.get(key) for row in own])
        seeds = dict.fromkeys(row["seed"] for row in own)
        per_seed = [mean([row["pcc"] for row in own if row["seed"] == seed]) for seed in seeds]
        line["seeds"] = len(seeds)
        line["sd_seeds"] = float(np.std(np.array(per_seed, dtype=float), ddof=1)) if len(seeds) > 1 else None
        lines.append(line)
    for other in RELATIVE_TO:
        for base in (line for line in lines if line["method"] == other):
            for line in lines:
                line[f"all / {other}"], line[f"HEG / {other}"] = (ratio(line, base, k) for k in ("pcc", "pcc_heg"))
    return lines


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def ratio(line: Row, base: Row, key: str) -> float | None:
    """Return how many times the base a method reaches; None where that says nothing."""
    return line[key] / base[key] if line[key] and base[key] and base[key] > 0 else None


def show(title: str, rows: Sequence[Row], lines: Sequence[Row]) -> None:
    """Print a protocol's table, and a line a slide under it."""
    extra = [
        key for key in (f"{what} / {other}" for other in RELATIVE_TO for what in ("all", "HEG")) if key in lines[0]
    ]
    keys = [*MEASURES.values(), *INTERVALS.values(), "sd_seeds", *extra]
    header = ["method", "slides", "seeds", *MEASURES, *INTERVALS, "sd seeds", *extra]
    her2st.show(
        title, header, [[line["method"], line["slides"], line["seeds"], *map(line.get, keys)] for line in lines]
    )
    shown = {name: key for name, key in MEASURES.items() if key != "pooled_pcc"} | INTERVALS
    body = [[row["slide"], row["method"], row["seed"], row["spots"], *map(row.get, shown.values())] for row in rows]
    her2st.show("by slide", ["slide", "method", "seed", "spots", *shown], body)


def run_split(options: argparse.Namespace, title: str, slides: Sequence[Slide], **plan: Any) -> dict[str, Any]:
    """Run all baselines and the recipes on one protocol."""
    from mclstexp.evaluate.retrieval import evaluation_methods

    methods = evaluation_methods(her2st.method_options(options, options.recipes))
    named = [(method.name, method) for method in methods]
    rows, result = evaluated(options, slides, named, title.partition(":")[0], **plan)
    pooled = {one.method: one.values["pooled_pcc"].mean for one in result.summaries}
    lines = [{**line, "pooled_pcc": pooled[line["method"]]} for line in summary(rows)]
    show(title, rows, lines)
    for text in (*result.describe(), *result.warnings, *result.notes):
        print(text)
    return {"title": title, "folds": list(result.folds), "summary": lines, "rows": rows}


def run_mixed(options: argparse.Namespace) -> dict[str, Any]:
    """Leave each section of C out, with and without the shallow section of B in training."""
    from mclstexp.evaluate.retrieval import RetrievalMethod

    config = dataclasses.replace(her2st.model_config(options), normalisation=her2st.SCALE)
    slides = her2st.read(options, (*C, *B))
    rows: list[Row] = []
    for others, name in (((), "default, C alone"), (B, "default, C and B4")):
        for held_out in C:
            method = RetrievalMethod(config, her2st.resources(options), her2st.SCALE)
            train = (*(section for section in C if section != held_out), *others)
            part = [slide for slide in slides if slide.slide_id in (*train, held_out)]
            sides = {"train": train, "test": (held_out,)}
            rows += evaluated(options, part, [(name, method)], f"mixed, {name}, {held_out}", **sides)[0]
    lines = summary(rows)
    title = "mixed: leave one section of C out; does the shallow B4 in training lower the others?"
    show(title, rows, lines)
    alone, both = ([row for row in rows if row["method"] == line["method"]] for line in lines)
    worst = min(b["pcc"] - a["pcc"] for a, b in zip(alone, both, strict=True))
    print(f"with B4: PCC {lines[1]['pcc'] - lines[0]['pcc']:+.4f}, worst section {worst:+.4f}; ", end="")
    print(f"mean predicted expression {lines[1]['bias'] - lines[0]['bias']:+.4f}")
    return {"title": title, "summary": lines, "rows": rows}


def runners() -> dict[str, Callable[[argparse.Namespace], dict[str, Any]]]:
    """Return what each protocol runs."""

    def her2(title: str, **sides: Sequence[str]) -> Callable[[argparse.Namespace], dict[str, Any]]:
        names = tuple(name for side in sides.values() for name in side) or C
        return lambda options: run_split(options, title, her2st.read(options, names), **sides)

    bulb = "mob: leave one section of the olfactory bulb out"
    return {
        "slide": her2("slide: leave one section of patient C out"),
        "b4": her2("b4: train on C, test on patient B", train=C, test=B),
        "c": her2("c: train on B4, test on patient C", train=B, test=C),
        "mixed": run_mixed,
        "mob": lambda options: run_split(options, bulb, mob.read(options), n_genes=mob.N_GENES),
        "mob-foreign": mob.run_foreign,
    }


def main() -> None:
    parser = her2st.parser(__doc__, "accuracy")
    parser.add_argument("--protocols", default=",".join(DEFAULT_PROTOCOLS), help=f"Of {', '.join(PROTOCOLS)}.")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--recipes", default="default,paper,paper-code")
    options = her2st.parse(parser)
    options.seeds = [int(seed) for seed in her2st.split_list(options.seeds)]
    options.recipes = her2st.split_list(options.recipes)
    chosen = her2st.split_list(options.protocols)
    if not set(chosen) <= set(PROTOCOLS):
        raise SystemExit(f"--protocols {options.protocols}: known are {', '.join(PROTOCOLS)}")
    results: dict[str, Any] = {"facts": her2st.facts(options), "seeds": options.seeds, "protocols": {}}
    print(her2st.describe(results["facts"]))
    print("genes: 785, given (mob: 500, chosen); scale: log(1 + counts / panel total x 10,000), natural")
    print("bias: mean predicted - measured")
    for name in chosen:
        results["protocols"][name] = runners()[name](options)
        her2st.save(options, results)


if __name__ == "__main__":
    main()
