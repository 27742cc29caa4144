"""Options that several commands share, and the habits of a working folder: ./model, ./reference."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mclstexp.cli._numbers import number
from mclstexp.cli._output import note, progress
from mclstexp.config.ranges import MPP, RANGES
from mclstexp.text import is_whole

if TYPE_CHECKING:
    from mclstexp.data.readers.addresses import SlideAddresses
    from mclstexp.index.cluster.workers import Workers
    from mclstexp.index.reference import Reference
    from mclstexp.slide import Slide
    from mclstexp.types import Progress

Refs = Annotated[
    Path,
    typer.Argument(help="Folder of slides, of any layout that mst check --help lists."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, say what it costs and what would be written, and stop.")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]
Mpp = Annotated[
    float | None,
    number("--mpp", limits=MPP, help="Pixel size in um, when the files do not say or say it wrong."),
]
MppFrom = Annotated[
    Literal["given", "file", "pitch"] | None,
    typer.Option("--mpp-from", help="Which pixel size is right where --mpp, the file and the spots' pitch disagree."),
]
Only = Annotated[
    str | None, typer.Option("--slides", help="Only these slides, comma-separated (default: all that are found).")
]
BinUm = Annotated[
    int | None, typer.Option("--bin-um", help="Size of Visium HD's bins: 2, 8 or 16 [default: the largest there].")
]
Cells = Annotated[bool, typer.Option("--cells", help="Segmented cells, a spot each, in place of bins or transcripts.")]
PoolUm = Annotated[
    float | None,
    typer.Option(
        "--pool-um", help="Side of the squares that transcripts [default: 100], cells or bins are pooled over."
    ),
]
RecipeName = Literal["default", "paper", "paper-code"]
Recipe = Annotated[RecipeName, typer.Option("--recipe", help="paper-code is upstream's code.")]
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder", envvar="MST_ENCODER", help="timm or hf-hub: name [default: densenet121]; several as a,b."
    ),
]
EncoderWeights = Annotated[
    str | None,
    typer.Option(
        "--encoder-weights",
        envvar="MST_ENCODER_WEIGHTS",
        help="A .safetensors file, or 'random', one an encoder as a,b; default: downloaded pretrained weights.",
    ),
]
Genes = Annotated[
    Path | None, typer.Option("--genes", help="File naming the gene panel (text, JSON, CSV, .npy); default: HVGs.")
]
NGenes = Annotated[
    int | None, number("--n-genes", limits=RANGES["n_genes"], help="Size of the chosen gene panel [default: 1000].")
]
Seed = Annotated[int, number("--seed", limits=RANGES["seed"], help="Seed of everything random.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as dotted.key=value; may be repeated.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", envvar="MST_CACHE", help="Folder that keeps image features between runs.")
]
Message = Annotated[str, typer.Option("--message", "-m", help="What the history says about this change.")]
Version = Annotated[str | None, typer.Option("--version", help="Look at this version, by number or tag.")]

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS", help="Let a Ray cluster do it: HOST:PORT of its head, or auto (else this machine)."
    ),
]
RayWorkers = Annotated[
    int | None, typer.Option("--workers", min=1, help="With --ray: how many [default: one a GPU, or one a CPU].")
]
CommitEvery = Annotated[
    int | None,
    typer.Option("--commit-every", min=0, help="With --ray: slides a commit, 0 for one at the end [default: 100]."),
]

MODEL, REFERENCE = Path("model"), Path("reference")
"""Where a working folder keeps its model and its reference."""

ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--reference",
        "-r",
        envvar="MST_REFERENCE",
        metavar="PATH",
        help="Folder of the reference, s3://bucket/folder, or a published one: hf://owner/name, https://host/folder "
        "[default: ./reference].",
    ),
]
RecordedReference = Annotated[
    str | None,
    typer.Option(
        "--reference",
        "-r",
        metavar="PATH",
        help="Where their reference is: folder, s3://bucket/folder, hf://owner/name or https://host/folder "
        "[default: the folder that was recorded].",
    ),
]
ReferenceArgument = Annotated[
    str | None, typer.Argument(metavar="REFERENCE", help="Folder or URI of the reference; the same as -r.")
]
StorageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="For a reference that is no folder, e.g. aws_region=...; may be repeated [default: the environment's].",
    ),
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", envvar="MST_MODEL", help="Model folder made by mst train.")
]


def reference_place(argument: str | None, option: str | None) -> Path | str:
    """Return the folder or URI that is meant: the argument, -r, $MST_REFERENCE, or ./reference; say which by habit."""
    if argument is not None:
        if option != argument and typed(option, "MST_REFERENCE"):
            raise typer.BadParameter(
                f"the reference is {argument} as an argument and {option} with -r; leave one of them out.",
                param_hint="--reference",
            )
        return place_of(argument)
    if option is not None:
        return place_of(option)
    note(f"reference: ./{REFERENCE}")
    return REFERENCE


def place_of(text: str) -> Path | str:
    """Return a URI as it is, anything else as a path."""
    return text if "://" in text else Path(text)


def storage(pairs: list[str] | None, place: Path | str) -> dict[str, str] | None:
    """Return the storage options that were given, by key."""
    if not pairs:
        return None
    if isinstance(place, Path):
        raise typer.BadParameter(
            f"it is of use for a reference at a URI, and {place} is a folder; leave it out.",
            param_hint="--storage-option",
        )
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or not value:
            raise typer.BadParameter(
                f"{key!r} is no KEY=VALUE, such as aws_region=eu-central-1.", param_hint="--storage-option"
            )
        given[key] = value
    return given


def storage_beside(pairs: list[str] | None, reference: str | None) -> dict[str, str] | None:
    """Return the storage options of a prediction's reference; a recorded address gets none, as it is not followed."""
    if pairs and reference is None:
        raise typer.BadParameter(
            "it is of use beside --reference, which says at which URI the reference is.", param_hint="--storage-option"
        )
    return storage(pairs, place_of(reference or ""))


def typed(value: str | Path | None, variable: str) -> bool:
    """Whether an option's value was typed, and does not come from its environment variable."""
    return value is not None and (variable not in os.environ or Path(value) != Path(os.environ[variable]))


def open_reference(
    argument: str | None,
    option: str | None,
    *,
    storage_option: list[str] | None = None,
    version: str | None = None,
    device: str = "auto",
    cache: Path | None = None,
) -> "Reference":
    """Open the reference that is meant.

    Raises
    ------
    InputError
        When there is none; says how to name or build one.
    """
    from mclstexp.errors import InputError
    from mclstexp.index.reference import Reference

    place = reference_place(argument, option)
    if isinstance(place, Path) and not place.exists():
        raise InputError(
            f"There is no reference at {place}; name one with -r or $MST_REFERENCE, or build one: mst build-index refs/"
        )
    return Reference.open(
        place,
        version=version_or_tag(version),
        device=device,  # type: ignore[arg-type]
        cache=cache_of(cache),
        storage_options=storage(storage_option, place),
        on_progress=progress(),
    )


def cache_of(folder: Path | None) -> "Path | bool":
    """Return where image features are kept: the given folder, or the user's."""
    return True if folder is None else folder


def read_refs(
    refs: Path,
    slides: str | None,
    *,
    mpp: float | None,
    mpp_from: Literal["given", "file", "pitch"] | None,
    bin_um: int | None,
    cells: bool,
    pool_um: float | None,
    on_progress: "Progress",
    pictured: bool = False,
) -> "list[Slide]":
    """Read a command's reference slides as its options say."""
    from mclstexp.data.readers import read_slides

    only = names(slides, "--slides")
    how = {"bin_um": bin_um, "cells": cells, "pool_um": pool_um, "pictured": pictured}
    return read_slides(refs, mpp=mpp, mpp_from=mpp_from, only=only, on_progress=on_progress, **how)  # type: ignore[arg-type]


def find_refs(
    refs: Path,
    slides: str | None,
    *,
    mpp: float | None,
    mpp_from: Literal["given", "file", "pitch"] | None,
    bin_um: int | None,
    cells: bool,
    pool_um: float | None,
) -> "SlideAddresses":
    """Find a command's reference slides as its options say, for others to read."""
    from mclstexp.data.readers import find_slides

    only = names(slides, "--slides")
    return find_slides(refs, mpp=mpp, mpp_from=mpp_from, only=only, bin_um=bin_um, cells=cells, pool_um=pool_um)


def workers(
    ray: str | None, n: int | None, commit_every: int | None, *, device: str, cache: Path | None
) -> "Workers | None":
    """Return the workers that are asked for; None for none, and then nothing may be said of them."""
    if ray is None:
        for option, value in {"--workers": n, "--commit-every": commit_every}.items():
            if value is not None:
                raise typer.BadParameter("it goes with --ray.", param_hint=option)
        return None
    from mclstexp.index.cluster.workers import COMMIT_EVERY, Workers

    every = COMMIT_EVERY if commit_every is None else commit_every
    return Workers(ray, n, every, device, cache_of(cache))  # type: ignore[arg-type]


def names(text: str | None, option: str) -> list[str] | None:
    """Split a comma-separated list; None where the option was not given."""
    if text is None:
        return None
    listed = [part.strip() for part in text.split(",") if part.strip()]
    if not listed:
        raise typer.BadParameter(f"{text!r} names none; give names with commas between, or leave it out.",
                                 param_hint=option)  # fmt: skip
    return listed


def version_or_tag(text: str | None) -> int | str | None:
    """Return a version number, or a tag as it is."""
    return int(text) if text is not None and is_whole(text) else text


def gene_choice(text: str | None) -> "list[str] | str | None":
    """Return None for the panel, ``"all"``, or the genes that a list or file names."""
    if text is None or text == "all":
        return text
    from mclstexp.data.genes.lists import parse_genes

    return parse_genes(text)


def command_line() -> str:
    """Return the command as it was typed, for the history of a reference and the record of a prediction.

    Values of --storage-option are left out, since they may be secret.
    """
    words: list[str] = []
    for word in sys.argv[1:]:
        if words and words[-1] == "--storage-option":
            word = _without_value(word)
        elif word.startswith("--storage-option="):
            word = f"--storage-option={_without_value(word.partition('=')[2])}"
        words.append(word)
    return shlex.join(["mst", *words])


def _without_value(pair: str) -> str:
    return f"{pair.partition('=')[0]}=..."
