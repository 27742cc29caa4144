"""An evaluation's runs on the workers of a Ray cluster, kept where the driver finds them as those of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from mclstexp.cluster import Cluster
from mclstexp.data.readers.addresses import SlideAddresses
from mclstexp.errors import InputError
from mclstexp.evaluate.folds import make_folds
from mclstexp.evaluate.methods import MethodOptions
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.retrieval import evaluation_methods
from mclstexp.evaluate.run import answer_of, panel_of, runs_of
from mclstexp.evaluate.state import EvaluationState
from mclstexp.notes import inform
from mclstexp.text import counted
from mclstexp.types import EncoderWeights, Progress


class FitFold:
    """Fits a method on a fold and keeps its answer.

    Parameters
    ----------
    slides
        `SlideAddresses` as JSON: those that are evaluated on.
    protocol, options
        How, and which methods.
    folder, facts
        Of the `EvaluationState` that the driver has begun; every machine has to reach the folder.
    """

    def __init__(
        self,
        slides: Mapping[str, Any],
        protocol: EvaluationProtocol,
        options: MethodOptions,
        folder: Path,
        facts: Mapping[str, Any],
    ) -> None:
        self._protocol = protocol
        self._state = EvaluationState(folder, facts)
        self._folds, _ = make_folds(list(SlideAddresses.from_json(slides)), protocol.split)
        self._runs = runs_of(evaluation_methods(options), protocol)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return nothing: the answer lies in the folder."""
        fold, (method, seed) = self._folds[item["fold"]], self._runs[item["run"]]
        panel, _ = panel_of(self._protocol, fold)
        self._state.keep(fold.name, method.name, seed, answer_of(method, seed, fold, panel, self._protocol))
        return {}


def fit_on_cluster(
    slides: SlideAddresses,
    folds: Sequence[str],
    protocol: EvaluationProtocol,
    options: MethodOptions,
    state: EvaluationState,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    address: str,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Let workers fit every method on every fold that the folder does not hold yet.

    Parameters
    ----------
    slides, protocol, options, folder, facts
        As `FitFold` takes them.
    folds
        Names of the folds, in their order.
    state
        What the folder holds.
    address, workers
        The cluster, and how many of its workers; None for one a GPU, or one a CPU.

    Raises
    ------
    InputError
        Some run failed; the others are kept.
    """
    options = replace(options, cache=_absolute(options.cache), encoder_weights=_weights(options.encoder_weights))
    runs = runs_of(evaluation_methods(options), protocol)
    items = [
        {"fold": i, "run": j}
        for i, fold in enumerate(folds)
        for j, (method, seed) in enumerate(runs)
        if state.load(fold, method.name, seed) is None
    ]
    arguments = {"slides": slides.to_json(), "protocol": protocol, "options": options}
    arguments |= {"folder": folder.absolute(), "facts": dict(facts)}
    failed: list[str] = []
    with Cluster(address) as cluster:
        n = cluster.n_workers(len(items), device=options.device, workers=workers)
        inform(f"{counted(n, 'worker')} on {cluster}: {counted(len(items), 'run')} of a method on a fold")
        outcomes = cluster.each(FitFold, arguments, items, device=options.device, workers=workers)
        for done, outcome in enumerate(outcomes, 1):
            if outcome.error is not None:
                item = items[outcome.item]
                failed.append(f"fold {folds[item['fold']]}, {runs[item['run']][0].name}: {outcome.error}")
                inform(f"failed: {failed[-1]}")
            if on_progress is not None:
                on_progress("folds x methods", done, len(items))
    if failed:
        raise InputError(f"{len(failed)} of {counted(len(items), 'run')} failed: {failed[0]} The same command goes on.")


def _absolute(place: Any) -> Any:
    """Return the path of a file or folder so that it means the same in another folder; words stay as they are."""
    return str(Path(place).absolute()) if not isinstance(place, bool) and Path(place).exists() else place


def _weights(given: EncoderWeights) -> EncoderWeights:
    return _absolute(given) if isinstance(given, str | PathLike) else [_absolute(one) for one in given]
