"""Evaluation by held-out slides: every method fits on the same training side and is scored on the same truth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mclstexp.data.genes.panel import panel_from_names, select_panel
from mclstexp.data.genes.sets import GeneSets
from mclstexp.errors import MismatchError
from mclstexp.evaluate.folds import Fold, make_folds
from mclstexp.evaluate.leakage import check_leakage
from mclstexp.evaluate.methods import Configured, Method, without_counts
from mclstexp.evaluate.protocol import EvaluationProtocol, panel_warnings
from mclstexp.evaluate.result import DomainMap, EvaluationResult, GeneMap, versions
from mclstexp.evaluate.scores import Run, SlideScore, SlideTruth, coverage_warnings, gene_spread, score_slide, summarise
from mclstexp.evaluate.state import Answer, EvaluationState
from mclstexp.metrics import Floats, PooledCorrelation, cluster_agreement, domain_clusters
from mclstexp.notes import inform
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.text import duration, some
from mclstexp.types import FloatArray, Progress

MAPPED_SLIDES = 4

MAPPED_GENES = 3


def run_evaluation(
    slides: Sequence[Slide],
    methods: Sequence[Method],
    protocol: EvaluationProtocol,
    *,
    state: EvaluationState | None = None,
    on_progress: Progress | None = None,
) -> EvaluationResult:
    """Fit and score every method on every fold and seed.

    Held-out slides reach `Method.predict` without counts and labels. The panel is chosen on each training side alone
    (unless the protocol fixes one). Deterministic methods run once. What ``state`` holds is taken, not fitted again.

    Raises
    ------
    InputError
        When no fold can be made, or content or patients leak between the sides of one.
    MismatchError
        When a method's scale is not the protocol's, or its prediction has another shape than the slide.
    """
    runs = runs_of(methods, protocol)
    folds, notes = make_folds(slides, protocol.split)
    warnings = [*check_leakage(folds, protocol.split), *panel_warnings(protocol, folds)]
    findings = _Findings(protocol, state or EvaluationState(), notes=notes)
    pace, total = _Pace(len(runs), len(folds)), len(folds) * len(runs)
    for i, fold in enumerate(folds):
        panel = findings.begin(fold)
        for j, (method, seed) in enumerate(runs):
            started = time.monotonic()
            findings.run(method, seed, fold, panel)
            done, took = i * len(runs) + j + 1, time.monotonic() - started
            left = pace.left(j, took)
            inform(f"fold {fold.name}, {method.name}: {duration(took)} ({done} of {total}{left})")
            if on_progress is not None:
                on_progress("folds x methods", done, total)
    return EvaluationResult(
        protocol=protocol,
        methods=tuple(method.name for method in methods),
        configs={method.name: method.config for method in methods if isinstance(method, Configured)},
        folds=tuple(findings.folds),
        scores=tuple(findings.scores),
        summaries=tuple(summarise(findings.scores, findings.pooled, protocol.known)),
        notes=(*dict.fromkeys(findings.notes), *_absent_markers(protocol.markers, findings.panels)),
        warnings=(*warnings, *coverage_warnings(findings.scores)),
        domains_of_truth=findings.domains,
        label_sources=findings.label_sources,
        maps=tuple(findings.maps.values()),
        domain_maps=tuple(findings.domain_maps.values()),
        versions=versions(),
    )


def runs_of(methods: Sequence[Method], protocol: EvaluationProtocol) -> list[tuple[Method, int | None]]:
    """Return every method with each of its seeds; None for a deterministic one.

    Raises
    ------
    MismatchError
        When a method's scale is not the protocol's.
    """
    return [(method, seed) for method in methods for seed in _seeds(method, protocol)]


def panel_of(protocol: EvaluationProtocol, fold: Fold) -> tuple[GenePanel, list[str]]:
    """Return the gene panel of a fold, chosen on its training side unless the protocol names one, and notes."""
    if protocol.genes:
        return panel_from_names(protocol.genes, fold.train_with_image)
    return select_panel(fold.train_with_image, n_top=protocol.n_genes), []


def answer_of(method: Method, seed: int | None, fold: Fold, panel: GenePanel, protocol: EvaluationProtocol) -> Answer:
    """Fit a method on a fold, and predict the held-out slides."""
    train = fold.train if method.uses_counts_only else fold.train_with_image
    method.fit(train, panel, seed=protocol.seeds[0] if seed is None else seed)
    predictions = [method.predict(without_counts(slide)) for slide in fold.test]
    for slide, prediction in zip(fold.test, predictions, strict=True):
        prediction.check(method.name, len(slide), len(panel))
    return Answer.of(method, predictions)


def _seeds(method: Method, protocol: EvaluationProtocol) -> tuple[int | None, ...]:
    if method.normalisation != protocol.normalisation:
        raise MismatchError(
            f"Method {method.name} predicts on the scale {method.normalisation}, but the protocol's is "
            f"{protocol.normalisation}; build it with the protocol's."
        )
    return (None,) if method.deterministic else protocol.seeds


class _Pace:
    """How long the runs of an evaluation that are still to come will take, by those of earlier folds."""

    def __init__(self, n_runs: int, n_folds: int) -> None:
        self._took: list[list[float]] = [[] for _ in range(n_runs)]
        self._n_folds = n_folds

    def left(self, run: int, seconds: float) -> str:
        """Note how long a run of this fold took, and return what is left in words: nothing until all ran once."""
        self._took[run].append(seconds)
        if not all(self._took):
            return ""
        still = sum((self._n_folds - len(took)) * sum(took) / len(took) for took in self._took)
        return f", about {duration(still)} left" if still else ""


@dataclass
class _Findings:
    """What the loop over folds, methods and seeds has gathered so far."""

    protocol: EvaluationProtocol
    state: EvaluationState
    notes: list[str]
    truths: list[SlideTruth] = field(default_factory=list)
    spread: Floats | None = None
    scores: list[SlideScore] = field(default_factory=list)
    pooled: dict[tuple[str, int | None], PooledCorrelation] = field(default_factory=dict)
    maps: dict[tuple[str, str], GeneMap] = field(default_factory=dict)
    domains: dict[str, tuple[float, float]] = field(default_factory=dict)
    label_sources: dict[str, str] = field(default_factory=dict)
    panels: list[GenePanel] = field(default_factory=list)
    domain_maps: dict[str, DomainMap] = field(default_factory=dict)
    folds: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, fold: Fold) -> GenePanel:
        """Choose the fold's panel on its training side, and normalise its held-out slides."""
        panel, notes = panel_of(self.protocol, fold)
        self.notes += notes
        self.panels.append(panel)
        self.spread = gene_spread(fold.train_with_image, panel, self.protocol.normalisation)
        self.truths = [SlideTruth.of(slide, panel, self.protocol.normalisation) for slide in fold.test]
        for truth in self.truths:
            self._describe(truth)
        self.folds.append(
            {
                "name": fold.name,
                "train": [slide.slide_id for slide in fold.train_with_image],
                "train_counts_only": [slide.slide_id for slide in fold.train if slide.image is None],
                "test": [slide.slide_id for slide in fold.test],
                "n_genes": len(panel),
                "panel": panel.digest,
                "choices": [],
                "learned": [],
            }
        )
        return panel

    def run(self, method: Method, seed: int | None, fold: Fold, panel: GenePanel) -> None:
        """Fit a method on the fold, unless that was done before, and score it on every held-out slide."""
        answer = self.state.load(fold.name, method.name, seed)
        if answer is None:
            answer = answer_of(method, seed, fold, panel, self.protocol)
            self.state.keep(fold.name, method.name, seed, answer)
        if answer.choice is not None:
            choice = answer.choice
            tried = [{"settings": list(settings), "pcc": pcc} for settings, pcc in choice.scores]
            record = {"method": method.name, "seed": seed, "rule": choice.rule, "chosen": list(choice.settings)}
            self.folds[-1]["choices"].append({**record, "inner_pcc": tried})
        if answer.learned is not None:
            self.folds[-1]["learned"].append({"method": method.name, "seed": seed, **answer.learned})
        for truth, prediction in zip(self.truths, answer.predictions, strict=True):
            slide = truth.slide
            run = Run(fold.name, method.name, seed)
            self.scores.append(score_slide(truth, prediction, run, self.protocol.markers, self.spread))
            pool = self.pooled.setdefault((method.name, seed), PooledCorrelation())
            pool.add(panel.symbols, truth.expression, prediction.mean)
            if seed in (None, self.protocol.seeds[0]):
                self._map(truth, prediction.mean, method.name)
                clusters, drawn = self.scores[-1].clusters, self.domain_maps.get(slide.slide_id)
                if clusters is not None and drawn is not None:
                    drawn.clusters.setdefault(method.name, clusters)

    def _describe(self, truth: SlideTruth) -> None:
        slide = truth.slide
        unmeasured = int(np.isnan(truth.expression).any(axis=0).sum())
        if unmeasured:
            self.notes.append(f"Slide {slide.slide_id} did not measure {unmeasured} of {len(truth.panel)} genes.")
        self._describe_domains(truth)
        if len({slide_id for slide_id, _ in self.maps}) < MAPPED_SLIDES:
            for column in truth.hvg[:MAPPED_GENES].tolist():
                gene = truth.panel.symbols[column]
                measured = truth.expression[:, column]
                self.maps[slide.slide_id, gene] = GeneMap(slide.slide_id, gene, slide.spots.xy_px, measured, {})

    def _describe_domains(self, truth: SlideTruth) -> None:
        spots, slide_id = truth.slide.spots, truth.slide.slide_id
        measured = truth.expression[:, ~np.isnan(truth.expression).any(axis=0)]
        clusters = None
        if spots.labels is not None:
            clusters = domain_clusters(measured, spots.labels, seed=self.protocol.seeds[0])
        if spots.labels is None or clusters is None:
            return
        self.domains[slide_id] = cluster_agreement(clusters, spots.labels)
        self.label_sources[slide_id] = truth.slide.extra.get("labels", "the slide's own")
        if len(self.domain_maps) < MAPPED_SLIDES:
            self.domain_maps[slide_id] = DomainMap(slide_id, spots.xy_px, spots.labels, {"measured": clusters})

    def _map(self, truth: SlideTruth, predicted: FloatArray, method: str) -> None:
        for (slide_id, gene), picture in self.maps.items():
            column = truth.panel.find(gene) if slide_id == truth.slide.slide_id else None
            if column is not None:
                picture.predicted.setdefault(method, predicted[:, column])


def _absent_markers(markers: GeneSets, panels: Sequence[GenePanel]) -> list[str]:
    absent = {
        name: [gene for gene in genes if all(panel.find(gene) is None for panel in panels)]
        for name, genes in markers.items()
    }
    return [
        f"Marker set {name}: {len(genes)} of {len(markers[name])} genes are in no fold's panel and not scored: "
        f"{some(genes)}."
        for name, genes in absent.items()
        if genes
    ]
