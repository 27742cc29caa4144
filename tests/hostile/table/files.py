"""Every kind of file that a command reads, damaged in every general way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hostile.entry import EITHER, Entry, Spoil
from hostile.table.base import BASE, QUERY, QUICK_ENCODER

GENERAL = ("missing", "empty", "cut:0.5", "cut:0.1", "cut:1", "random", "zeros", "magic", "folder", "pipe", "loop",
           "device")  # fmt: skip
"""What can happen to any file."""

OF_TEXT = ("nul", "latin", "bom", "utf16", "crlf", "cr", "twice", "header", "gzipped", "bytes")
"""What can happen to a text."""

OFTEN = ("cut:0.5", "pipe", "latin")
"""What is tried with the other tests; the rest in full runs alone."""

OF_BINARY = tuple(f"flip:{seed}" for seed in range(6))


@dataclass(frozen=True)
class Kind:
    """A kind of file, where the world has one, and the command that reads it.

    Attributes
    ----------
    name
        What it is.
    copy, file
        As in `Spoil`.
    command
        Reads the copy in ``{i}``.
    text
        Whether it is a text.
    fine
        Damages that it may or must survive.
    """

    name: str
    copy: str
    command: tuple[str, ...]
    file: str = ""
    text: bool = False
    fine: tuple[str, ...] = ()

    @property
    def named(self) -> str:
        """Name of the file, as a message has it."""
        return (self.file or self.copy).rpartition("/")[2].strip("*")


def _query(image: str = QUERY[1], coords: str = QUERY[2], *more: str) -> tuple[str, ...]:
    return ("query", image, coords, *QUERY[3:], *more)


TRAIN_GENES = ("train", "{w}/refs", "-o", "{o}/m", "--slides", "NOSUCH", *QUICK_ENCODER, "--genes")
EVALUATE = (*BASE["evaluate"], "--slides", "NOSUCH")
"""Reads its lists first, and stops where nothing is wrong with them."""

BUILD = ("build-index", "{w}/refs", "--model", "{i}/model", "-o", "{o}/r")
OF_REFERENCE = ("query", *QUERY[1:3], "-r", "{i}/reference", "-o", "{o}/p.h5ad")

KINDS = (
    Kind("coordinates", "coords.csv", _query(coords="{i}/coords.csv"), text=True),
    Kind("regions", "regions.geojson", (*QUERY, "--regions", "{i}/regions.geojson"), text=True),
    Kind("list of slides", "queries.csv", ("query", "{i}/queries.csv", *QUERY[3:-4], "-o", "{o}"), text=True),
    Kind("image tif", "slide.tif", _query(image="{i}/slide.tif")),
    Kind("image png", "he.png", _query(image="{i}/he.png")),
    Kind("image jpg", "he.jpg", _query(image="{i}/he.jpg")),
    Kind("slides.csv", "refs", ("check", "{i}/refs"), "slides.csv", text=True),
    Kind("counts h5ad", "refs", ("check", "{i}/refs"), "P1_A.h5ad"),
    Kind("reference image", "refs", ("check", "{i}/refs"), "P1_A.tif"),
    Kind("10x h5", "visium", ("check", "{i}/visium"), "filtered_feature_bc_matrix.h5"),
    Kind("positions", "visium", ("check", "{i}/visium"), "spatial/tissue_positions.csv", text=True),
    Kind("scale factors", "visium", ("check", "{i}/visium"), "spatial/scalefactors_json.json", text=True),
    Kind("matrix.mtx", "mex", ("check", "{i}/mex"), "filtered_feature_bc_matrix/matrix.mtx.gz"),
    Kind("barcodes.tsv", "mex", ("check", "{i}/mex"), "filtered_feature_bc_matrix/barcodes.tsv.gz"),
    Kind("features.tsv", "mex", ("check", "{i}/mex"), "filtered_feature_bc_matrix/features.tsv.gz"),
    Kind("st counts", "her2st", ("check", "{i}/her2st"), "ST-cnts/A1.tsv.gz"),
    Kind("st selection", "her2st", ("check", "{i}/her2st"), "ST-spotfiles/A1_selection.tsv", text=True),
    Kind("table counts", "table", ("check", "{i}/table"), "a/counts.tsv", text=True),
    Kind("model config", "model", BUILD, "config.json", True),
    Kind("model weights", "model", BUILD,
         "weights.safetensors"),
    Kind("model genes", "model", BUILD, "genes.tsv", True),
    Kind("model history", "model", BUILD, "history.jsonl",
         True),
    Kind("model card", "model", BUILD, "model-card.md", True),
    Kind("prediction", "p.h5ad", ("plot", "{i}/p.h5ad", "-g", "ERBB2", "-o", "{o}/m.png")),
    Kind("neighbours", "p.neighbours.parquet", ("neighbours", "{i}/p.h5ad", "1x1")),
    Kind("gene list", "genes.txt", (*TRAIN_GENES, "{i}/genes.txt"), text=True),
    Kind("gene list json", "genes.json", (*TRAIN_GENES, "{i}/genes.json"), text=True),
    Kind("gene list csv", "genes.csv", (*TRAIN_GENES, "{i}/genes.csv"), text=True),
    Kind("gene list npy", "genes.npy", (*TRAIN_GENES, "{i}/genes.npy")),
    Kind("gene sets json", "sets.json", (*EVALUATE, "--markers", "{i}/sets.json"), text=True),
    Kind("gene sets gmt", "sets.gmt", (*EVALUATE, "--markers", "{i}/sets.gmt"), text=True),
    Kind("folds", "folds.csv", (*EVALUATE, "--folds", "{i}/folds.csv"), text=True),
    Kind("tiles", "tiles.h5", ("query", "{w}/slide.tif", "--features", "{i}/tiles.h5", *QUERY[3:])),
    Kind("encoder weights", "model", ("train", "{w}/refs", "-o", "{o}/m", "--encoder", "test_resnet",
                                      "--encoder-weights", "{i}/model/weights.safetensors"), "weights.safetensors"),
    Kind("reference manifest", "reference", OF_REFERENCE,
         "spots.lance/_versions/*.manifest"),
    Kind("reference data", "reference", OF_REFERENCE,
         "spots.lance/data/*.lance"),
    Kind("reference genes", "reference", (*OF_REFERENCE, "--genes", "all"),
         "genes/*"),
    Kind("reference model config", "reference", OF_REFERENCE,
         "models/*/config.json", True),
    Kind("reference weights", "reference", OF_REFERENCE,
         "models/*/weights.safetensors"),
)  # fmt: skip


def _of(kind: Kind) -> Iterator[Entry]:
    for damage in (*GENERAL, *(OF_TEXT if kind.text else OF_BINARY)):
        spoils = [Spoil(kind.copy, damage, kind.file)]
        if kind.copy == "p.neighbours.parquet":
            spoils.append(Spoil("p.h5ad"))
        yield Entry(f"{kind.name}: {damage}", kind.command, tuple(spoils), expected=EITHER, always=damage in OFTEN)


ENTRIES = [entry for kind in KINDS for entry in _of(kind)]
