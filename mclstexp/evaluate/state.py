"""What an evaluation has computed so far, kept in a folder, so that one that was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mclstexp.evaluate.methods import Choice, Choosing, Learned, Method
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.result import versions
from mclstexp.evaluate.scores import MethodPrediction
from mclstexp.index.store.record import content_hash
from mclstexp.notes import inform
from mclstexp.slide import Slide
from mclstexp.storage import (
    canonical_json,
    read_digested,
    replacing,
    sha256_bytes,
    sha256_input,
    storage_errors,
    write_digested,
)
from mclstexp.text import counted
from mclstexp.types import FloatArray

FORMAT = 1
"""Of the kept runs; a folder of another one is begun anew."""

ARRAYS = ("mean", "lower", "upper", "familiarity")


@dataclass(frozen=True, eq=False)
class Answer:
    """What a method fitted on a fold says: its predictions of the held-out slides, in order, and how it chose."""

    predictions: list[MethodPrediction]
    choice: Choice | None = None
    learned: dict[str, Any] | None = None

    @classmethod
    def of(cls, method: Method, predictions: list[MethodPrediction]) -> Answer:
        """Put beside the predictions what the method records of its settings."""
        choice = method.choice if isinstance(method, Choosing) else None
        learned = method.learned if isinstance(method, Learned) else None
        return cls(predictions, choice, learned)


class EvaluationState:
    """A folder of answers, one a fold, method and seed, of one evaluation.

    Parameters
    ----------
    folder
        Where they are kept; None keeps nothing.
    facts
        Everything that decides the figures, as plain JSON values. Answers of other facts are removed.

    Raises
    ------
    StorageError
        When the folder cannot be written.
    """

    def __init__(self, folder: Path | None = None, facts: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        if folder is None:
            return
        values = json.loads(canonical_json({"format": FORMAT, **(facts or {})}))
        with storage_errors(folder):
            if read_digested(folder / "run.json") == values:
                done = len(list(folder.glob("*.safetensors")))
                inform(f"going on with {folder}: {counted(done, 'run')} of a method on a fold were done before")
                return
            if folder.exists():
                inform(f"{folder} holds runs of an evaluation with other data or settings, which are removed")
                shutil.rmtree(folder)
            folder.mkdir()
            write_digested(folder / "run.json", values)

    def load(self, fold: str, method: str, seed: int | None) -> Answer | None:
        """Return a kept answer, or None where there is none or its file is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self._path(fold, method, seed)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                facts = json.loads(file.metadata()["facts"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            predictions = [_prediction(arrays, i, level) for i, level in enumerate(facts["levels"])]
            choice = facts["choice"] and Choice(
                tuple(facts["choice"]["settings"]),
                facts["choice"]["rule"],
                tuple((tuple(settings), pcc) for settings, pcc in facts["choice"]["scores"]),
            )
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None
        return Answer(predictions, choice, facts["learned"])

    def keep(self, fold: str, method: str, seed: int | None, answer: Answer) -> None:
        """Keep an answer; a file is there whole or not at all.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        from safetensors.numpy import save_file

        path = self._path(fold, method, seed)
        if path is None:
            return
        arrays = {
            f"{i}.{key}": np.ascontiguousarray(value)
            for i, prediction in enumerate(answer.predictions)
            for key in ARRAYS
            if (value := getattr(prediction, key)) is not None
        }
        facts = {
            "levels": [prediction.level for prediction in answer.predictions],
            "choice": answer.choice and dataclasses.asdict(answer.choice),
            "learned": answer.learned,
        }
        with storage_errors(path), replacing(path) as work:
            save_file(arrays, work, metadata={"facts": json.dumps(facts)})

    def remove(self) -> None:
        """Remove the folder, once the figures are written."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, fold: str, method: str, seed: int | None) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{sha256_bytes(canonical_json([fold, method, seed]).encode())[:32]}.safetensors"


def _prediction(arrays: Mapping[str, FloatArray], number: int, level: float | None) -> MethodPrediction:
    lower, upper, familiarity = (arrays.get(f"{number}.{key}") for key in ARRAYS[1:])
    return MethodPrediction(arrays[f"{number}.mean"], lower, upper, familiarity, level)


def evaluation_facts(slides: Sequence[Slide], protocol: EvaluationProtocol, options: Any) -> dict[str, Any]:
    """Return what decides an evaluation's figures: data, protocol, `MethodOptions`, weights and versions.

    Parameters
    ----------
    slides
        Every slide that may train or be held out.
    options
        The `MethodOptions` of the methods.
    """
    told = {key: value for key, value in dataclasses.asdict(options).items() if key != "cache"}
    weights = told["encoder_weights"]
    files = [weights] if isinstance(weights, str) or not isinstance(weights, Sequence) else list(weights)
    told["encoder_weights"] = [sha256_input(Path(f)) if Path(f).is_file() else str(f) for f in files]
    content = {}
    for slide in slides:
        image = None if slide.image is None else sha256_input(slide.image.path)
        spots = slide.spots
        array = sha256_bytes(np.stack([spots.array_row, spots.array_col]).astype("<f8").tobytes())
        content[slide.slide_id] = [slide.patient, slide.cohort, slide.mpp, content_hash(spots, image), array]
    return {"slides": content, "protocol": dataclasses.asdict(protocol), "methods": told, "versions": versions()}
