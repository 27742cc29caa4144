"""The result of an evaluation: scores, summaries, maps, and what has to be known to read them."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import ModelConfig
from mclstexp.evaluate.paper import describe_protocol
from mclstexp.evaluate.protocol import PUBLISHED, EvaluationProtocol, changes_of, describe_split
from mclstexp.evaluate.scores import METRICS, MethodSummary, SlideScore
from mclstexp.settings import to_dict
from mclstexp.types import FloatArray


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
                {key: value for key, value in vars(score).items() if key not in ("genes", "gene_pcc", "clusters")}
                for score in self.scores
            ],
            "domains_of_truth": {
                slide_id: {"ari": ari, "nmi": nmi, "labels": self.label_sources[slide_id]}
                for slide_id, (ari, nmi) in self.domains_of_truth.items()
            },
        }

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows, a row a method: mean over slides and seeds, beside PCC its spread."""
        keys = self._shown()
        header = ["method", "slides", "seeds"]
        for key in keys:
            header += [key, "sd seeds", "sd slides"] if key == "pcc" else [key]
        rows: list[list[object]] = []
        for summary in self.summaries:
            row: list[object] = [summary.method, summary.n_slides, summary.n_seeds]
            for key in keys:
                value = summary.values[key]
                row += [value.mean, value.sd_seeds, value.sd_slides] if key == "pcc" else [value.mean]
            rows.append(row)
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
        folds_of: dict[tuple[str, str], dict[str, list[str]]] = {}
        for fold in self.folds:
            for choice in fold["choices"]:
                text = ", ".join(choice["chosen"]) or "the recipe's own"
                where = f"{fold['name']} seed {choice['seed']}" if len(self.protocol.seeds) > 1 else fold["name"]
                chosen = folds_of.setdefault((choice["method"], choice["rule"]), {})
                chosen.setdefault(text, []).append(where)
        return [
            f"settings of {method}, chosen by mean PCC on each training side ({rule}): "
            + "; ".join(f"{text} in {', '.join(folds)}" for text, folds in chosen.items())
            for (method, rule), chosen in folds_of.items()
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
        present = dict.fromkeys(key for summary in self.summaries for key in summary.values)
        keys = [*(key for key in METRICS if key in present), *(key for key in present if key not in METRICS)]
        return [
            key
            for key in keys
            if key != "pcc_nan_dropped" and any(s.values[key].mean is not None for s in self.summaries)
        ]


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and those that decide figures ("absent" where not installed)."""
    installed = {"python": platform.python_version()}
    for name in ("mclstexp", "numpy", "scipy", "scikit-learn", "torch", "timm", "scanpy", "lancedb"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "absent"
    return installed
