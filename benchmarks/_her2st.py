"""What the accuracy benchmarks share: finding the real data, reading it, settings from the command line, output.

The scripts read ../shared from the project's root, or the folder of $MST_SHARED; without it they say so and end well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mclstexp.cli._output import note, table
from mclstexp.config import ModelConfig, Normalisation, changed, recipe
from mclstexp.settings import to_dict

if TYPE_CHECKING:
    from mclstexp.evaluate.methods import MethodOptions
    from mclstexp.evaluate.protocol import EvaluationProtocol
    from mclstexp.evaluate.retrieval import Resources
    from mclstexp.model.model import Model
    from mclstexp.slide import Slide
    from mclstexp.types import Progress

C = ("C2", "C3", "C5", "C6")
"""Sections of patient C that have an image."""

B = ("B4",)
"""The section of patient B that has one; a third of the counts a spot."""

SCALE = Normalisation(target_sum=1e4, total="panel", log="natural")
"""The project's scale: log(1 + counts / panel total x 10,000)."""

ENCODER = "tf_efficientnet_lite0"
WEIGHTS = {ENCODER: f"{ENCODER}.safetensors", "vgg16": "vgg16_conv1-3.safetensors"}
"""The weights of the shared folder, by encoder."""

RESULTS = Path(__file__).parent / "results"


def parser(doc: str, name: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every accuracy benchmark has."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0])
    default = os.environ.get("MST_SHARED", Path(__file__).parents[2] / "shared")
    cache = os.environ.get("MST_CACHE")
    options.add_argument("--shared", type=Path, default=Path(default), help="Folder of real data [default: ../shared].")
    options.add_argument("--cache", type=Path, default=Path(cache) if cache else None, help="Folder of image features.")
    options.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="JSON file to write.")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Setting; may be repeated.")
    options.add_argument("--encoder", default=ENCODER, help="timm name, or several with commas: an ensemble.")
    options.add_argument("--weights", help="For each a .safetensors file or 'random' [default: of the shared folder].")
    options.add_argument("--epochs", type=int, help="Epochs of the networks, for trial runs: not the recipe's figures.")
    options.add_argument("--device", default="auto")
    return options


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; where the real data is not here, say so and end the program with success."""
    options = parser.parse_args()
    if not (options.shared / "her2st").is_dir():
        print(f"skipped: the real data is not here ({options.shared}); set MST_SHARED or give --shared")
        raise SystemExit(0)
    if options.weights is None:
        options.weights = shared_weights(options)
    if options.epochs is not None:
        options.set = [*options.set, f"optim.epochs={options.epochs}"]
    return options


def shared_weights(options: argparse.Namespace) -> str:
    """Return the files of the shared folder for the encoders, as ``--weights`` takes them."""
    names = split_list(options.encoder)
    unknown = [name for name in names if name not in WEIGHTS]
    if unknown:
        raise SystemExit(
            f"--encoder {unknown[0]}: the shared folder has weights of {', '.join(WEIGHTS)}; give --weights"
        )
    return ",".join(str(options.shared / "weights" / WEIGHTS[name]) for name in names)


def read(options: argparse.Namespace, names: Sequence[str]) -> list[Slide]:
    """Read sections, in the order of their names."""
    from mclstexp.data.readers import read_slides

    return read_slides(options.shared / "her2st", only=names)


def genes(options: argparse.Namespace) -> list[str]:
    """Return the paper's panel of 785 genes."""
    from mclstexp.data.genes.lists import read_gene_list

    return read_gene_list(options.shared / "genes" / "her2st_785.txt")


def model_config(options: argparse.Namespace, *changes: str, name: str = "default") -> ModelConfig:
    """Return a recipe's settings with the command line's, then with the given changes."""
    config = changed(recipe(name), [f"encoder.name={options.encoder}", *options.set])
    return changed(config, list(changes))


def method_options(options: argparse.Namespace, recipes: Sequence[str]) -> MethodOptions:
    """Return how `evaluation_methods` builds the methods of a table."""
    from mclstexp.evaluate.methods import MethodOptions

    return MethodOptions(
        recipes=tuple(recipes),
        encoder=options.encoder,
        encoder_weights=options.weights,
        settings=tuple(options.set),
        normalisation=SCALE,
        device=options.device,
        cache=cache_folder(options),
    )


def resources(options: argparse.Namespace) -> Resources:
    """Return what the methods of an evaluation compute with."""
    from mclstexp.evaluate.retrieval import Resources

    return Resources(options.weights, options.device, cache_folder(options))


def trained(options: argparse.Namespace, slides: Sequence[Slide], config: ModelConfig) -> Model:
    """Train a model on slides, on the paper's panel."""
    from mclstexp.train import train

    return train(
        slides,
        recipe=config,
        genes=genes(options),
        encoder_weights=options.weights,
        device=options.device,
        cache=cache_folder(options),
    )


def cache_folder(options: argparse.Namespace) -> Path:
    """Return where image features are kept: as the commands do."""
    import platformdirs

    return options.cache or Path(platformdirs.user_cache_dir("mclstexp"))


def plan(
    options: argparse.Namespace,
    *,
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    n_genes: int | None = None,
) -> EvaluationProtocol:
    """Return the protocol of an evaluation: leave one slide out, or the given sections.

    The panel is the paper's, or ``n_genes`` highly variable genes of each training side.
    """
    from mclstexp.evaluate.folds import SplitSpec
    from mclstexp.evaluate.protocol import EvaluationProtocol

    split = SplitSpec(by="slide", train=tuple(train), test=tuple(test))
    if n_genes is not None:
        return EvaluationProtocol("mob", split, tuple(seeds), n_genes=n_genes, normalisation=SCALE)
    return EvaluationProtocol("her2st", split, tuple(seeds), tuple(genes(options)), normalisation=SCALE)


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """Return what decides the figures and the times: command, settings, versions, machine."""
    import torch

    from mclstexp.evaluate.result import versions

    return {
        "command": " ".join(sys.argv),
        "encoder": options.encoder,
        "settings": list(options.set),
        "trial": options.epochs is not None,
        "default_recipe": to_dict(model_config(options)),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }


def describe(known: dict[str, Any]) -> str:
    """Return the facts in lines of text."""
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
    lines = [f"encoder: {known['encoder']}; settings: {' '.join(known['settings']) or 'as the recipes say'}", versions]
    if known["trial"]:
        lines.insert(0, "TRIAL RUN: the networks were trained for fewer epochs than their recipes say")
    return "\n".join(lines)


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table under a title."""
    print(f"\n{title}\n{table(header, rows)}", flush=True)


def save(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write the results, replacing earlier ones at once."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    work = options.out.with_name(f"{options.out.name}.partial")
    work.write_text(json.dumps(results, indent=1) + "\n")
    work.replace(options.out)


def pace(label: str) -> Progress:
    """Return a callback that says how far the steps of a long run are, on stderr."""
    started = time.monotonic()

    def say(step: str, done: int, total: int) -> None:
        note(f"{label}: {done} of {total} {step}, {time.monotonic() - started:.0f} s")

    return say


def split_list(text: str) -> list[str]:
    """Split a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]
