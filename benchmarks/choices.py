"""Is the inner validation worth its time? What training chooses, beside what was best on slides that it never saw.

    python benchmarks/choices.py --sides her2st,mob,simulated

On every training side settings are chosen as `mst train` chooses them. Then every candidate of every choice is fitted
to the whole side, all other settings as finally chosen, and scored on the held-out slides.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import _her2st as her2st
import numpy as np
from _contenders import default_config, panel_of
from _held_out import HeldOut, Side
from simulated.features import simulate

from mclstexp.choose.ladder import Settings, applied
from mclstexp.choose.run import Chosen, choose
from mclstexp.config import ModelConfig
from mclstexp.errors import MclstexpWarning

if TYPE_CHECKING:
    from mclstexp.slide import Slide

WORLDS = ("linear", "levels", "own")
SIZE = (4, 8, 1, 1200)
"""Tissues, patients, slides a patient and spots in all of a simulated training side."""

GENES = 300
NOISE = 0.002
"""Of the score: a choice this close to the best one was as good."""

FIGURES = ("pcc", "pcc_pooled", "mse", "score")
SHARES = {"chosen": "chosen", "recipe": "fixed", "by lot": "by_lot"}
"""Three ways to come by a value: the choice, the recipe's own, and a draw among the candidates."""


Plan = tuple[str, Callable[[], Side]]
"""Name of a side, and what reads it."""


def her2st_sides(options: argparse.Namespace) -> Iterator[Plan]:
    """Yield each section of C from the three others, B4 from C, and C from B4."""
    slides = {slide.slide_id: slide for slide in her2st.read(options, [*her2st.B, *her2st.C])}
    c, b = ([slides[name] for name in names] for names in (her2st.C, her2st.B))
    pairs = [(slide.slide_id, [other for other in c if other is not slide], [slide]) for slide in c]
    for name, train, test in [*pairs, ("B4 from C", c, b), ("C from B4", b, c)]:
        yield f"her2st, {name}", partial(read_side, options, train, test, her2st.genes(options))


def mob_sides(options: argparse.Namespace) -> Iterator[Plan]:
    """Yield each section of the mouse's olfactory bulb from the other, on the training section's variable genes."""
    from mclstexp.data.readers import read_slides

    slides = read_slides(options.shared / "mob")
    for test in slides:
        train = [slide for slide in slides if slide is not test]
        yield f"mob, {test.slide_id}", partial(read_side, options, train, [test], None)


def simulated_sides(options: argparse.Namespace) -> Iterator[Plan]:
    """Yield a cohort of every world; its test slides are of patients that training never saw."""
    for world in WORLDS:
        yield f"simulated, {world}", partial(simulated_side, options, world)


SIDES: dict[str, Callable[[argparse.Namespace], Iterator[Plan]]] = {
    "her2st": her2st_sides,
    "mob": mob_sides,
    "simulated": simulated_sides,
}


def simulated_side(options: argparse.Namespace, world: str) -> Side:
    """Simulate a cohort of features."""
    cohort = simulate(*options.size, None, GENES, seed=0, world=world)
    config = with_hand(default_config(cohort), options.set)
    return Side(cohort.train, cohort.test, cohort.layout, panel_of(cohort), config)


def with_hand(config: ModelConfig, settings: Sequence[str]) -> ModelConfig:
    """Return the recipe for features as they are, with the command line's settings; intervals are not asked for."""
    from mclstexp.config import changed

    return changed(dataclasses.replace(config, calibrate=False), list(settings))


def read_side(
    options: argparse.Namespace, train: Sequence[Slide], test: Sequence[Slide], genes: list[str] | None
) -> Side:
    """Encode slides, and bring their counts to the training side's panel."""
    from mclstexp.data.genes.expression import expression_for
    from mclstexp.device import resolve_device
    from mclstexp.model.image.encoder import ImageEncoder
    from mclstexp.model.image.features import feature_cache, slide_features
    from mclstexp.model.space.neighbourhood import positions_um
    from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
    from mclstexp.train import training_panel

    config = dataclasses.replace(her2st.model_config(options, "calibrate=false"), normalisation=her2st.SCALE)
    panel = training_panel(train, config, genes)
    encoder = ImageEncoder.create(config.encoder, options.weights, seed=config.seed)
    encoder = encoder.to(resolve_device(options.device))
    cache = feature_cache(her2st.cache_folder(options))

    def arrays(slide: Slide) -> SlideArrays:
        expression, measured = expression_for(slide.spots, panel, config.normalisation)
        counts = slide.spots.counts
        depth = None if counts is None else np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        features = slide_features(slide, encoder, config.patch, cache=cache)
        return SlideArrays(slide.slide_id, slide.patient, features, expression, measured, positions_um(slide), depth)

    size = config.patch.size_px
    layout = FeatureLayout(encoder.block_sizes(size), len(config.encoder.scales), encoder.block_names(size))
    return Side([arrays(slide) for slide in train], [arrays(slide) for slide in test], layout, panel, config)


def examined(side: Side, name: str) -> dict[str, Any]:
    """Choose on the training side, and score every candidate of every choice on the held-out slides."""
    her2st.note(f"{name}: choosing")
    chosen, spent = timed(side, side.config)
    _, plain = timed(side, dataclasses.replace(chosen.config, choose=()))
    held = HeldOut(side, chosen.reduction)
    choices = []
    for curve in chosen.record.get("curves", []):
        her2st.note(f"{name}: {curve['setting']}, {len(curve['values'])} candidates")
        choices.append(judged(curve, held, chosen.config))
    return {
        "side": name,
        "train": [slide.slide_id for slide in side.train],
        "test": [slide.slide_id for slide in side.test],
        "spots": sum(len(slide.features) for slide in side.train),
        "held_out": chosen.record.get("held_out"),
        "with_choosing": spent,
        "without_choosing": plain,
        "inner": chosen.record.get("recipe"),
        "chosen": held.score(chosen.config).record(),
        "recipe": held.score(side.config).record(),
        "choices": choices,
    }


def timed(side: Side, config: ModelConfig) -> tuple[Chosen, dict[str, float]]:
    """Choose and fit; return what came out, and the seconds on the clock and of CPU."""
    wall, own = time.perf_counter(), time.process_time()
    chosen = choose(side.train, side.layout, config, side.panel)
    return chosen, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - own}


def judged(curve: dict[str, Any], held: HeldOut, config: ModelConfig) -> dict[str, Any]:
    """Return what is known of one choice: scores of all candidates, in the inner validation and held out."""
    names = curve["settings"]
    settings = [settings_of(names, value) for value in curve["values"]]
    scores = [held.score(applied(config, one)).score for one in settings]
    # What the recipe says where nothing is chosen.
    own = held.score(applied(config, tuple((name, setting(held.side.config, name)) for name in names))).score
    best, inner = max(scores), curve["score"]
    regret = {"chosen": best - scores[curve["chosen"]], "fixed": best - own, "by_lot": best - float(np.mean(scores))}
    as_good = {"chosen": regret["chosen"] <= NOISE, "fixed": regret["fixed"] <= NOISE}
    return {
        "setting": curve["setting"],
        "values": curve["values"],
        "measure": curve.get("measure", "score"),
        "inner": inner,
        "held": scores,
        # Inner scores are kept rounded: of equals the chosen one.
        "inner_best": curve["chosen"] if inner[curve["chosen"]] == max(inner) else int(np.argmax(inner)),
        "chosen": curve["chosen"],
        "held_best": int(np.argmax(scores)),
        "held_chosen": scores[curve["chosen"]],
        "held_recipe": own,
        "spread": best - min(scores),
        "regret": regret,
        "as_good": {**as_good, "by_lot": float(np.mean([best - score <= NOISE for score in scores]))},
    }


def settings_of(names: Sequence[str], value: Any) -> Settings:
    """Return the settings of one candidate; several have a value each."""
    return ((names[0], value),) if len(names) == 1 else tuple(zip(names, value, strict=True))


def setting(config: ModelConfig, name: str) -> Any:
    """Return a setting by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def summary(choices: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the shares of choices as good as the held-out best, and the mean regret, of each way to a value."""
    found: dict[str, float] = {"choices": len(choices)}
    for way in SHARES.values():
        found[f"as good, {way}"] = float(np.mean([one["as_good"][way] for one in choices]))
        found[f"regret, {way}"] = float(np.mean([one["regret"][way] for one in choices]))
    return found


def summaries(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the summary of all choices, of those by what was held out, and of each setting's."""
    pairs = [(row, one) for row in rows for one in row["choices"]]
    groups: dict[str, list[dict[str, Any]]] = {"all": [one for _, one in pairs]}
    for row, one in pairs:
        groups.setdefault(f"by {row['held_out']}", []).append(one)
    for _, one in pairs:
        groups.setdefault(one["setting"], []).append(one)
    return {name: summary(chosen) for name, chosen in groups.items() if chosen}


def show(row: dict[str, Any]) -> None:
    """Print one side's choices."""
    spent, plain = row["with_choosing"], row["without_choosing"]
    title = (
        f"{row['side']}: {row['spots']} spots, inner validation by {row['held_out']}; seconds (of CPU) "
        f"with choosing {spent['seconds']:.0f} ({spent['cpu_seconds']:.0f}), without {plain['seconds']:.0f} "
        f"({plain['cpu_seconds']:.0f})"
    )
    header = ["setting", "chosen", "inner best", "held-out best", "held out: chosen", "best", "recipe", "as good"]
    body = [
        [
            one["setting"],
            *(str(one["values"][one[key]]) for key in ("chosen", "inner_best", "held_best")),
            one["held_chosen"],
            max(one["held"]),
            one["held_recipe"],
            "yes" if one["as_good"]["chosen"] else "no",
        ]
        for one in row["choices"]
    ]
    her2st.show(title, header, body)
    whole = [[name, *(row[name][key] for key in FIGURES)] for name in ("chosen", "recipe")]
    her2st.show(f"{row['side']}: held out, all together", ["settings", "PCC", "pooled", "MSE", "score"], whole)


def show_summaries(found: dict[str, dict[str, float]]) -> None:
    """Print shares and regrets."""
    header = ["choices of", "n", *(f"as good: {way}" for way in SHARES), *(f"regret: {way}" for way in SHARES)]
    body = [
        [name, str(one["choices"])]
        + [one[f"{what}, {way}"] for what in ("as good", "regret") for way in SHARES.values()]
        for name, one in found.items()
    ]
    her2st.show(f"as good: within {NOISE} of the held-out best; regret: of the score", header, body)


def show_sides(rows: Sequence[dict[str, Any]]) -> None:
    """Print what all choices together gained on each side, and what they cost."""
    body = [
        [
            row["side"],
            str(row["held_out"]),
            *(row[name]["score"] for name in ("chosen", "recipe")),
            f"{row['chosen']['score'] - row['recipe']['score']:+.4f}",
            f"{row['with_choosing']['cpu_seconds']:.0f}",
            f"{row['without_choosing']['cpu_seconds']:.0f}",
        ]
        for row in rows
    ]
    header = ["side", "inner by", "score: chosen", "recipe", "gained", "CPU s", "without"]
    her2st.show("held out: everything chosen, and nothing", header, body)


def main() -> None:
    parser = her2st.parser(__doc__, "choices")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"Any of {', '.join(SIDES)}.")
    parser.add_argument("--only", metavar="TEXT", help="Only sides whose name holds one of these, comma-separated.")
    options = her2st.parse(parser)
    options.size = SIZE
    wanted = her2st.split_list(options.sides)
    unknown = [name for name in wanted if name not in SIDES]
    if unknown:
        raise SystemExit(f"--sides {unknown[0]}: known are {', '.join(SIDES)}")
    warnings.simplefilter("ignore", MclstexpWarning)
    results: dict[str, Any] = {"facts": her2st.facts(options), "rows": []}
    for kind in wanted:
        for name, read in SIDES[kind](options):
            if options.only and not any(part in name for part in her2st.split_list(options.only)):
                continue
            results["rows"].append(examined(read(), name))
            results["summary"] = summaries(results["rows"])
            her2st.save(options, results)
            show(results["rows"][-1])
    show_sides(results["rows"])
    show_summaries(results.get("summary", {}))


if __name__ == "__main__":
    main()
