"""Evaluation by held-out slides: every method fits on the same training side and is scored on the same truth."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import ModelConfig, to_dict
from mclstexp.data.genes import panel_from_names, select_panel
from mclstexp.data.splits import Fold, check_leakage, make_folds, shorten
from mclstexp.errors import MismatchError
from mclstexp.evaluate_protocol import (
    PUBLISHED,
    Choosing,
    Configured,
    EvaluationProtocol,
    Method,
    MethodOptions,
    changes_of,
    describe_protocol,
    describe_split,
    panel_warnings,
    paper_protocol,
    paper_slides,
    without_counts,
)
from mclstexp.evaluate_scores import (
    METRICS,
    MethodPrediction,
    MethodSummary,
    Run,
    SlideScore,
    SlideTruth,
    score_slide,
    summarise,
)
from mclstexp.gene_sets import GeneSets
from mclstexp.metrics import PooledCorrelation, cluster_agreement, domain_clusters
from mclstexp.types import FloatArray, GenePanel, Slide

__all__ = [
    "EvaluationProtocol",
    "EvaluationResult",
    "GeneMap",
    "Method",
    "MethodOptions",
    "MethodPrediction",
    "paper_protocol",
    "paper_slides",
    "run_evaluation",
    "without_counts",
]

MAPPED_SLIDES = 4
MAPPED_GENES = 3


@dataclass(frozen=True, eq=False)
class GeneMap:
    """One gene on one held-out slide, measured and as each method predicts it with the first seed."""

    slide_id: str
    gene: str
    xy_px: NDArray[np.float64]
    measured: FloatArray
    predicted: dict[str, FloatArray]


@dataclass(frozen=True, eq=False)
class DomainMap:
    """A held-out slide's labels ("": none), and by method its clusters ``(n,)`` (-1 where there is no label)."""

    slide_id: str
    xy_px: NDArray[np.float64]
    labels: NDArray[np.str_]
    clusters: dict[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Scores a slide, summaries a method, and what has to be known to read them.

    Attributes
    ----------
    folds
        A dict a fold: name, train, train_counts_only, test, n_genes, panel (digest) and choices (settings that a
        method chose on the training side, and the inner scores).
    configs
        The settings of every method that is a recipe.
    domains_of_truth
        ARI and NMI of clusters of the *measured* expression, by slide: what a perfect prediction would reach.
    label_sources
        Whose labels those are, by slide.
    """

    protocol: EvaluationProtocol
    methods: tuple[str, ...]
    configs: dict[str, ModelConfig]
    folds: tuple[dict[str, Any], ...]
    scores: tuple[SlideScore, ...]
    summaries: tuple[MethodSummary, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    domains_of_truth: dict[str, tuple[float, float]]
    label_sources: dict[str, str]
    maps: tuple[GeneMap, ...]
    domain_maps: tuple[DomainMap, ...]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the maps as plain JSON values, NaN as null."""
        return {
            "protocol": asdict(self.protocol),
            "versions": self.versions,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "metrics": METRICS,
            "recipes": {name: to_dict(config) for name, config in self.configs.items()},
            "folds": list(self.folds),
            "overall": [asdict(summary) for summary in self.summaries],
            "slides": [
                {key: value for key, value in vars(score).items() if key not in ("symbols", "gene_pcc", "clusters")}
                for score in self.scores
            ],
            "domains_of_truth": {
                slide_id: {"ari": ari, "nmi": nmi, "labels": self.label_sources[slide_id]}
                for slide_id, (ari, nmi) in self.domains_of_truth.items()
            },
        }

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows, a row a method: mean over slides and seeds, and the spread of PCC."""
        keys = self._shown()
        header = ["method", "slides", "seeds", *keys, "sd seeds", "sd slides"]
        rows: list[list[object]] = []
        for summary in self.summaries:
            spread = summary.values["pcc"]
            means = [summary.values[key].mean for key in keys]
            rows.append([summary.method, summary.n_slides, summary.n_seeds, *means, spread.sd_seeds, spread.sd_slides])
        return header, rows

    def slide_table(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows, a row a slide, method and seed."""
        keys = [key for key in self._shown() if not key.startswith("pooled")]
        header = ["slide", "fold", "method", "seed", "spots", "genes", *keys]
        rows: list[list[object]] = [
            [s.slide_id, s.fold, s.method, s.seed, s.n_spots, s.n_scored, *(s.values[key] for key in keys)]
            for s in self.scores
        ]
        return header, rows

    def describe(self) -> list[str]:
        """Return the protocol in lines of text: split, genes, scale, seeds, versions."""
        protocol, scale = self.protocol, self.protocol.normalisation
        total = "the panel" if scale.total == "panel" else "every measured gene"
        sizes = sorted({fold["n_genes"] for fold in self.folds})
        source = "given" if protocol.genes else "highly variable, chosen on each training side"
        folds = [f"{f['name']} (train {len(f['train'])}, test {len(f['test'])})" for f in self.folds]
        return [
            f"protocol: {describe_protocol(protocol)}",
            f"split: {describe_split(protocol.split)}; {len(folds)} folds: {'; '.join(folds)}",
            f"genes: {' or '.join(map(str, sizes))}, {source}",
            f"scale: log(1 + counts / total over {total} x {scale.target_sum:g}), {scale.log} logarithm",
            f"seeds: {', '.join(map(str, protocol.seeds))}",
            *self._describe_recipes(),
            *self._describe_choices(),
            *self._describe_labels(),
            "versions: " + ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]

    def _describe_recipes(self) -> list[str]:
        lines = []
        for name, config in self.configs.items():
            changes = changes_of(config)
            published = config.recipe in PUBLISHED
            said = ("not as published: " if published else "with ") + ", ".join(changes) if changes else "as it is"
            if published and not config.optim.finetune:
                said += "; its image encoder is frozen, theirs was trained (--set optim.finetune=true)"
            lines.append(f"recipe of {name}: {config.recipe}, {said}")
        return lines

    def _describe_choices(self) -> list[str]:
        found: dict[tuple[str, str], dict[str, list[str]]] = {}
        for fold in self.folds:
            for choice in fold["choices"]:
                text = ", ".join(choice["chosen"]) or "the recipe's own"
                where = f"{fold['name']} seed {choice['seed']}" if len(self.protocol.seeds) > 1 else fold["name"]
                found.setdefault((choice["method"], choice["rule"]), {}).setdefault(text, []).append(where)
        return [
            f"settings of {method}, chosen by mean PCC on each training side ({rule}): "
            + "; ".join(f"{text} in {', '.join(folds)}" for text, folds in chosen.items())
            for (method, rule), chosen in found.items()
        ]

    def _describe_labels(self) -> list[str]:
        lines = []
        for source in dict.fromkeys(self.label_sources.values()):
            slides = [slide_id for slide_id, text in self.label_sources.items() if text == source]
            ari, nmi = np.mean([self.domains_of_truth[slide_id] for slide_id in slides], axis=0)
            lines.append(
                f"labels of {', '.join(slides)} (ARI, NMI): {source}; clusters of the measured expression reach "
                f"{ari:.4f}, {nmi:.4f}"
            )
        return lines

    def _shown(self) -> list[str]:
        """Measures that have a value for any method, without those that only repeat another."""
        keys = list(dict.fromkeys(key for summary in self.summaries for key in summary.values))
        return [
            key
            for key in keys
            if key != "pcc_nan_dropped" and any(s.values[key].mean is not None for s in self.summaries)
        ]


def run_evaluation(
    slides: Sequence[Slide],
    methods: Sequence[Method],
    protocol: EvaluationProtocol,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Fit and score every method on every fold and seed.

    Held-out slides reach `Method.predict` without counts and labels. The panel is chosen on each training side alone
    (unless the protocol fixes one). Deterministic methods run once.

    Raises
    ------
    InputError
        When no fold can be made, or content or patients leak between the sides of one.
    MismatchError
        When a method's scale is not the protocol's, or its prediction has another shape than the slide.
    """
    runs = [(method, seed) for method in methods for seed in _seeds(method, protocol)]
    folds, notes = make_folds(slides, protocol.split)
    warnings = [*check_leakage(folds, protocol.split), *panel_warnings(protocol, folds)]
    found = _Findings(protocol, notes=notes)
    for i, fold in enumerate(folds):
        panel = found.begin(fold)
        for j, (method, seed) in enumerate(runs):
            found.run(method, seed, fold, panel)
            if on_progress is not None:
                on_progress(i * len(runs) + j + 1, len(folds) * len(runs))
    return EvaluationResult(
        protocol=protocol,
        methods=tuple(method.name for method in methods),
        configs={method.name: method.config for method in methods if isinstance(method, Configured)},
        folds=tuple(found.folds),
        scores=tuple(found.scores),
        summaries=tuple(summarise(found.scores, found.pooled, protocol.known)),
        notes=(*dict.fromkeys(found.notes), *_absent_markers(protocol.markers, found.panel_genes)),
        warnings=tuple(warnings),
        domains_of_truth=found.domains,
        label_sources=found.label_sources,
        maps=tuple(found.maps.values()),
        domain_maps=tuple(found.domain_maps.values()),
        versions=versions(),
    )


def _seeds(method: Method, protocol: EvaluationProtocol) -> tuple[int | None, ...]:
    if method.normalisation != protocol.normalisation:
        raise MismatchError(
            f"Method {method.name} predicts on the scale {method.normalisation}, but the protocol's is "
            f"{protocol.normalisation}; build it with the protocol's."
        )
    return (None,) if method.deterministic else protocol.seeds


@dataclass
class _Findings:
    """What the loop over folds, methods and seeds has found so far."""

    protocol: EvaluationProtocol
    notes: list[str]
    truths: list[SlideTruth] = field(default_factory=list)
    scores: list[SlideScore] = field(default_factory=list)
    pooled: dict[tuple[str, int | None], PooledCorrelation] = field(default_factory=dict)
    maps: dict[tuple[str, str], GeneMap] = field(default_factory=dict)
    domains: dict[str, tuple[float, float]] = field(default_factory=dict)
    label_sources: dict[str, str] = field(default_factory=dict)
    panel_genes: set[str] = field(default_factory=set)
    domain_maps: dict[str, DomainMap] = field(default_factory=dict)
    folds: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, fold: Fold) -> GenePanel:
        """Choose the fold's panel on its training side, and normalise its held-out slides."""
        if self.protocol.genes:
            panel, notes = panel_from_names(self.protocol.genes, fold.train_with_image)
            self.notes += notes
        else:
            panel = select_panel(fold.train_with_image, n_top=self.protocol.n_genes)
        self.panel_genes |= set(panel.symbols)
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
            }
        )
        return panel

    def run(self, method: Method, seed: int | None, fold: Fold, panel: GenePanel) -> None:
        """Fit a method on the fold and score it on every held-out slide."""
        train = fold.train if method.uses_counts_only else fold.train_with_image
        method.fit(train, panel, seed=self.protocol.seeds[0] if seed is None else seed)
        if isinstance(method, Choosing) and method.choice is not None:
            choice = method.choice
            tried = [{"settings": list(settings), "pcc": pcc} for settings, pcc in choice.scores]
            record = {"method": method.name, "seed": seed, "rule": choice.rule, "chosen": list(choice.settings)}
            self.folds[-1]["choices"].append({**record, "inner_pcc": tried})
        for truth in self.truths:
            slide = truth.slide
            prediction = method.predict(without_counts(slide))
            prediction.check(method.name, len(slide), len(panel))
            run = Run(fold.name, method.name, seed)
            self.scores.append(score_slide(truth, prediction, run, self.protocol.markers))
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
            if slide_id == truth.slide.slide_id and gene in truth.panel.position:
                picture.predicted.setdefault(method, predicted[:, truth.panel.position[gene]])


def _absent_markers(markers: GeneSets, known: set[str]) -> list[str]:
    absent = {name: [gene for gene in genes if gene not in known] for name, genes in markers.items()}
    return [
        f"Marker set {name}: {len(genes)} of {len(markers[name])} genes are in no fold's panel and not scored: "
        f"{shorten(genes)}."
        for name, genes in absent.items()
        if genes
    ]


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and those that decide figures ("absent" where not installed)."""
    found = {"python": platform.python_version()}
    for name in ("mclstexp", "numpy", "scipy", "scikit-learn", "torch", "timm", "scanpy", "lancedb"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
