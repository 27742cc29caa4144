"""A model's folder: ``weights.safetensors``, ``config.json``, ``genes.tsv``, ``history.jsonl``, ``model-card.md``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mclstexp.config import ModelConfig
from mclstexp.data.anndata_file import reason
from mclstexp.data.paths import read_json, read_text
from mclstexp.errors import FormatError, InputError
from mclstexp.panel import GenePanel
from mclstexp.settings import from_dict, to_dict
from mclstexp.storage import new_folder, sha256_file

MODEL_FORMAT = 1
"""Version of the folder's layout, apart from the package's version."""

WEIGHTS, CONFIG, GENES, HISTORY, CARD = (
    "weights.safetensors",
    "config.json",
    "genes.tsv",
    "history.jsonl",
    "model-card.md",
)


@dataclass(frozen=True, eq=False)
class ModelFiles:
    """A model as it lies on disk.

    Attributes
    ----------
    config
        Settings.
    panel
        Ordered gene panel.
    arrays
        Every weight by name: ``backbone.*``, and those of the space and the calibration.
    facts
        What else is needed to rebuild the model, and what training recorded (JSON values).
    history
        One entry an epoch or step.
    card
        The model card's text.
    """

    config: ModelConfig
    panel: GenePanel
    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    card: str = ""


def write_model(folder: Path, model: ModelFiles, *, digest: str, force: bool = False) -> None:
    """Write a model folder, wholly or not at all.

    Raises
    ------
    ExistsAlreadyError, StorageError
        The folder exists and ``force`` is not set; the disk refused.
    """
    with new_folder(folder, force=force) as work:
        save_file({name: np.ascontiguousarray(array) for name, array in model.arrays.items()}, work / WEIGHTS)
        rows = zip(model.panel.symbols, model.panel.ensembl, strict=True)
        (work / GENES).write_text("symbol\tensembl\n" + "".join(f"{symbol}\t{ensembl}\n" for symbol, ensembl in rows))
        (work / HISTORY).write_text("".join(json.dumps(entry) + "\n" for entry in model.history))
        (work / CARD).write_text(model.card)
        head = {
            "format": "mclstexp-model",
            "format_version": MODEL_FORMAT,
            "digest": digest,
            "sha256": {name: sha256_file(work / name) for name in (WEIGHTS, GENES)},
            "config": to_dict(model.config),
            "facts": model.facts,
        }
        (work / CONFIG).write_text(json.dumps(head, indent=2) + "\n")


def read_model(folder: Path) -> ModelFiles:
    """Read a model folder, checking its format version and hashes.

    Raises
    ------
    InputError, FormatError
        There is no such folder; it is no model, damaged, or of another format version.
    """
    if not folder.is_dir():
        raise InputError(f"The model folder {folder} does not exist; make one with mst train.")
    head = _read_head(folder)
    for name in (WEIGHTS, GENES):
        if not (folder / name).is_file():
            raise FormatError(f"Model {folder} is incomplete: {name} is missing; train it again or restore a copy.")
        digest, stated = sha256_file(folder / name), head["sha256"][name]
        if digest != stated:
            raise FormatError(
                f"Model {folder} is damaged: {name} has hash {digest[:12]}, {CONFIG} says {stated[:12]}; "
                "train it again or restore a copy."
            )
    try:
        arrays = load_file(folder / WEIGHTS)
        lines = read_text(folder / GENES, "Genes").splitlines()[1:]
        pairs = [line.split("\t") for line in lines]
        panel = GenePanel(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
        history = [json.loads(line) for line in read_text(folder / HISTORY, "History").splitlines()]
        config = from_dict(ModelConfig, head["config"], "config.")
        card = read_text(folder / CARD, "Card") if (folder / CARD).is_file() else ""
    except (SafetensorError, IndexError, TypeError, OSError, ValueError, RecursionError, InputError) as error:
        raise FormatError(f"Model {folder} is damaged ({reason(error)}); train it again or restore a copy.") from error
    return ModelFiles(config, panel, arrays, head["facts"], history, card)


def _read_head(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise FormatError(f"{folder} is not a model folder: it has no {CONFIG}; mst train makes one.")
    try:
        head = read_json(path, "Settings")
    except InputError as error:
        raise FormatError(f"Model {folder} is damaged: {reason(error)}; train it again or restore a copy.") from error
    if not isinstance(head, dict) or head.get("format") != "mclstexp-model":
        raise FormatError(f"{folder} is not a model folder: {CONFIG} does not say mclstexp-model; mst train makes one.")
    version = head.get("format_version")
    if version != MODEL_FORMAT:
        raise FormatError(
            f"Model {folder} has format version {version}, this program reads {MODEL_FORMAT}; "
            "install the mclstexp release that wrote it, or train again."
        )
    for name in ("sha256", "config", "facts"):
        if not isinstance(head.get(name), dict):
            raise FormatError(f"Model {folder} is damaged: {CONFIG} lacks {name}; train it again or restore a copy.")
    unhashed = [name for name in (WEIGHTS, GENES) if not isinstance(head["sha256"].get(name), str)]
    if unhashed:
        raise FormatError(f"Model {folder} is damaged: {CONFIG} lacks the hash of {unhashed[0]}; restore a copy.")
    return head
