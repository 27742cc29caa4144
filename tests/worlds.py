"""The small simulated worlds that tests share."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from mclstexp.config import (
    EncoderSpec,
    ModelConfig,
    Normalisation,
    PatchSpec,
    SharedSpaceConfig,
    configure,
    recipe,
)
from mclstexp.data.genes.expression import expression_for
from mclstexp.data.images import open_image
from mclstexp.data.synthetic import SlideSpec, simulate_slide
from mclstexp.data.synthetic.cohort import write_pyramid
from mclstexp.data.synthetic.slides import COHORT
from mclstexp.evaluate.scores import MethodPrediction
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.panel import GenePanel
from mclstexp.predict.evidence import NEIGHBOUR_SCHEMA
from mclstexp.predict.memory import MemoryReference
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import to_dict
from mclstexp.slide import Slide, SpotTable

TINY = dataclasses.replace(
    recipe("default"),
    encoder=EncoderSpec(name="test_resnet", pooling="stages", views=1, scales=(1.0,)),
    patch=PatchSpec(size_px=32, mpp=1.0),
    shared=SharedSpaceConfig(context_scales=()),
    choose=(),
)
"""The default recipe on a toy encoder and small patches, for `tiny_slides`; nothing is chosen, which takes a while."""


def tiny_slides(
    folder: Path, n: int = 3, *, n_spots: int = 36, n_genes: int = 40, seed: int = 0, per_patient: int = 1
) -> list[Slide]:
    """Write ``n`` small images into ``folder`` and return their slides; a few tens of milliseconds each."""
    rows = int(np.ceil(np.sqrt(n_spots)))
    pitch = 56.0
    spec = SlideSpec(
        n_genes=n_genes, side_px=int((rows + 1) * pitch), mpp=1.0, pitch_um=pitch, grid="square", margin=False
    )
    slides = []
    for i in range(n):
        simulated = simulate_slide(spec, patient=i // per_patient, slide=i % per_patient, seed=seed)
        path = Path(folder) / f"{simulated.slide_id}.tif"
        write_pyramid(simulated.image, path, mpp=spec.mpp)
        slides.append(
            Slide(
                slide_id=simulated.slide_id,
                patient=simulated.patient,
                cohort=COHORT,
                spots=simulated.spots.take(np.arange(n_spots)),
                image=open_image(path),
                mpp=spec.mpp,
                mpp_source="file",
                layout="h5ad",
                sources=(path,),
            )
        )
    return slides


def tiny_config(name: str = "default", **settings: Any) -> ModelConfig:
    """Return a recipe's settings with a tiny encoder, small patches, few genes, no choice; more by ``group__name``."""
    small = {
        "choose": [],
        "patch.size_px": 64 if name == "paper" else 32,
        "network.embed_dim": 16,
        "network.heads": 2,
        "network.head_dim": 8,
        "optim.epochs": 2,
    }
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return configure(name, encoder="test_resnet", n_genes=30, settings=small | changes)


def painted(slide: Slide, image: np.ndarray, path: Path) -> Slide:
    """Return the slide under another image, named as the file that it is written to."""
    write_pyramid(image, path, mpp=1.0)
    return dataclasses.replace(slide, slide_id=path.stem, image=open_image(path), sources=(path,))


def thinned(slide: Slide, share: float = 0.05, *, seed: int = 0, **changes: Any) -> Slide:
    """Return the slide with a share of its counts, and other fields changed."""
    thin = sparse.csr_matrix(slide.spots.counts).copy()
    thin.data = np.random.default_rng(seed).binomial(thin.data.astype(np.int64), share).astype(thin.dtype)
    thin.eliminate_zeros()
    return dataclasses.replace(slide, spots=dataclasses.replace(slide.spots, counts=thin), **changes)


def unit(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return random float32 vectors of length 1 along the last axis."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


# Slides as arrays of features and expression, without an image.

STAINED_GENES = 30
STAINED_LAYOUT = FeatureLayout(blocks=(6, 10), n_scales=2)


def square_um(n: int, pitch_um: float = 200.0) -> np.ndarray:
    """Positions ``(n, 2)`` on a square array."""
    side = int(np.ceil(np.sqrt(n)))
    return pitch_um * np.stack(np.divmod(np.arange(n), side), axis=1).astype(np.float64)


def stained_arrays(
    name: str = "A1", patient: str = "A", *, n: int = 120, seed: int = 0, noise: float = 0.3, shift: float = 0.0
) -> SlideArrays:
    """Two hidden factors show in image and expression; ``shift`` is the slide's own stain and level."""
    world = np.random.default_rng(99)
    to_image, to_genes = world.normal(size=(2, STAINED_LAYOUT.width)), 3 * world.normal(size=(2, STAINED_GENES))
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 2)) * [1.0, 0.6]
    features = hidden @ to_image + noise * rng.normal(size=(n, STAINED_LAYOUT.width)) + shift
    expression = hidden @ to_genes + noise * rng.normal(size=(n, STAINED_GENES)) + shift + 5
    return SlideArrays(
        name,
        patient,
        features.astype(np.float32),
        expression.astype(np.float32),
        np.ones(STAINED_GENES, dtype=bool),
        square_um(n),
        np.full(n, 1000.0),
    )


CURVED_LAYOUT = FeatureLayout((20,))
CURVED_PANEL = GenePanel(tuple(f"GENE{i:02d}" for i in range(12)))


def curved_arrays(number: int, n: int = 250) -> SlideArrays:
    """A slide whose expression follows the product of two factors, and its picture the factors themselves."""
    world, rng = np.random.default_rng(3), np.random.default_rng([4, number])
    to_image, to_genes = world.normal(size=(2, 20)), world.normal(size=(2, 12))
    hidden = rng.normal(size=(n, 2))
    shown = np.stack([hidden[:, 0], 2 * hidden[:, 0] * hidden[:, 1]], axis=1)
    features = hidden @ to_image + 0.1 * rng.normal(size=(n, 20)) + rng.normal(size=20)
    expression = shown @ to_genes + 0.3 * rng.normal(size=(n, 12)) + 8
    measured = np.ones(12, dtype=bool)
    slide, patient = f"S{number}", f"P{number}"
    return SlideArrays(
        slide, patient, features.astype(np.float32), expression.astype(np.float32), measured, square_um(n)
    )


NOISY_LAYOUT = FeatureLayout((12, 8))
NOISY_PANEL = GenePanel(tuple(f"GENE{i:02d}" for i in range(30)))


def noisy_arrays(n_slides: int, *, n_spots: int = 150, seed: int = 0) -> list[SlideArrays]:
    """Slides of a patient each whose expression follows their features; slides differ in mean, genes in noise."""
    rng = np.random.default_rng(seed)
    width, n_genes = NOISY_LAYOUT.width, len(NOISY_PANEL)
    to_features, to_genes = rng.normal(size=(3, width)), rng.normal(size=(3, n_genes)) * 0.4
    noise = rng.uniform(0.1, 1.0, n_genes)
    slides = []
    for i in range(n_slides):
        hidden = rng.normal(size=(n_spots, 3))
        features = hidden @ to_features + rng.normal(size=(n_spots, width)) + rng.normal(size=width) * 0.3
        expression = 2 + hidden @ to_genes + rng.normal(size=(n_spots, n_genes)) * noise
        expression += rng.normal(size=n_genes) * 0.2
        slides.append(
            SlideArrays(
                f"S{i}",
                f"P{i}",
                features.astype(np.float32),
                np.maximum(expression, 0).astype(np.float32),
                np.ones(n_genes, dtype=bool),
                rng.uniform(0, 2000, (n_spots, 2)),
            )
        )
    return slides


def memory_reference(
    sizes: tuple[int, ...] = (30, 12, 50), *, n_genes: int = 20, dim: int = 8, seed: int = 0
) -> MemoryReference:
    """Return a reference of random keys and expression; slides differ in level and depth, the second lacks 5 genes."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    known = np.ones((len(sizes), n_genes), dtype=bool)
    known[1, :5] = False
    values = rng.gamma(2, 1, (len(owner), n_genes)) + rng.uniform(0, 2, (len(sizes), n_genes))[owner]
    depth = rng.uniform(100, 3000, len(sizes))[owner] * rng.uniform(0.3, 3, len(owner))
    return MemoryReference(
        embedding=unit((len(owner), dim), seed + 1),
        values=np.where(known[owner], values, 0).astype(np.float16),
        owner=owner,
        known=known,
        counts=depth.round(),
        panel=GenePanel(tuple(f"GENE{i:02d}" for i in range(n_genes))),
        rule=Normalisation(),
    )


# A prediction as a query would make it.

PREDICTED_SPOTS, PREDICTED_K = 24, 3


def neighbour_table(spots: list[str], k: int = PREDICTED_K) -> pa.Table:
    """Return ``k`` neighbours of each spot, deliberately the least similar first."""
    rows = [
        {
            "query_spot": spot,
            "rank": rank,
            "row_id": 1000 + rank,
            "cohort": "c",
            "patient": "p",
            "slide": "s",
            "spot_id": f"r{rank}",
            "array_row": rank,
            "array_col": 2 * rank,
            "x_px": 10.0 * rank,
            "y_px": 20.0 * rank,
            "similarity": 1.0 / rank,
            "weight": 1.0 / k,
        }
        for spot in spots
        for rank in range(k, 0, -1)
    ]
    return pa.Table.from_pylist(rows, schema=NEIGHBOUR_SCHEMA)


def tiny_prediction(**changes: Any) -> Prediction:
    """Return a prediction of 24 spots and 4 genes with everything that one can have, fields changed."""
    rng = np.random.default_rng(7)
    n = PREDICTED_SPOTS
    row, col = np.divmod(np.arange(n), int(np.ceil(np.sqrt(n))))
    mean = rng.random((n, 4)).astype(np.float32)
    mean[2, 0], mean[:, 3] = np.nan, np.nan
    spots = [f"{r}x{c}" for r, c in zip(row, col, strict=True)]
    values: dict[str, Any] = {
        "slide_id": "S1",
        "spot_ids": spots,
        "xy_px": np.stack([100.0 + 200 * col, 100.0 + 200 * row], axis=1),
        "genes": GenePanel(("ERBB2", "CD3E", "EPCAM", "XIST"), ("ENSG00000141736", "", "", "")),
        "mean": mean,
        "sd": 0.1 * mean,
        "settings": {
            "normalisation": to_dict(Normalisation()),
            "model": "abc",
            "k": 200,
            "none": None,
            "list": [1, "a"],
        },
        "spot_diameter_px": 110.0,
        "array_row": row,
        "array_col": col,
        "obs": {"similarity": rng.random(n), "note": ["x"] * n},
        "var": {"missing_reason": ["", "", "", "no reference measured it"], "reliability": [0.5, 0.4, 0.3, np.nan]},
        "evidence": neighbour_table(spots),
        "thumbnail": rng.integers(0, 255, (700, 800, 3), dtype=np.uint8),
        "thumbnail_scale": 0.7,
        "mpp": 0.5,
    }
    return Prediction(**{**values, **changes})


# Slides and methods for evaluation.

SCALE = Normalisation()
WORLD_GENES = GenePanel(tuple(f"G{i}" for i in range(70)))
WORLD_SIDE = 7
"""Spots along a side of a slide of `World`."""


class Picture:
    """Stands for an image that is never read."""

    def __init__(self, path):
        self.path = Path(path)


def stub_slide(name, patient="P", cohort="H", *, image=True, counts=None, seed=None, path=None):
    """Return a slide of twelve spots in a row: random counts, those given, or none at all (False)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) if seed is None else seed)
    n = 12
    table = rng.poisson(3, (n, len(WORLD_GENES))) if counts is None else counts
    spots = SpotTable(
        spot_ids=np.array([f"s{i}" for i in range(n)]),
        xy_px=np.stack([np.arange(n) * 100.0, np.zeros(n)], axis=1),
        array_row=np.zeros(n, int),
        array_col=np.arange(n),
        counts=None if table is False else sparse.csr_matrix(table),
        genes=None if table is False else WORLD_GENES,
    )
    return Slide(name, patient, cohort, spots, image=Picture(path or f"{name}.tif") if image else None)


class World:
    """Slides whose counts follow image features that are given, as noisy as told; no image is read."""

    def __init__(self, names=("A1", "A2", "B1", "B2", "C1"), noise=0.0, genes=WORLD_GENES):
        rng = np.random.default_rng(7)
        loadings = rng.normal(size=(4, len(genes))) * 0.6
        n_spots = WORLD_SIDE**2
        self.features = {}
        self.slides = []
        for name in names:
            row, col = np.indices((WORLD_SIDE, WORLD_SIDE)).reshape(2, -1)
            x = rng.normal(size=(n_spots, 4))
            self.features[name] = np.hstack([x, rng.normal(size=(n_spots, 2)), np.ones((n_spots, 1))])
            rate = np.exp(3 + (x + noise * rng.normal(size=x.shape)) @ loadings)
            labels = np.where(x[:, 0] > 0, "high", "low")
            spots = SpotTable(
                spot_ids=np.array([f"{r}x{c}" for r, c in zip(row, col, strict=True)]),
                xy_px=np.stack([col, row], axis=1) * 50.0,
                array_row=row,
                array_col=col,
                counts=sparse.csr_matrix(rng.poisson(rate)),
                genes=genes,
                labels=labels,
            )
            self.slides.append(Slide(name, name[0], "cohort", spots, image=Picture(f"{name}.absent")))

    def read(self, slide):
        """Return a slide's image features."""
        return self.features[slide.slide_id].astype(np.float32)


class Told:
    """A method that predicts what a function says, and records what it was given."""

    def __init__(self, answer, name="told", *, deterministic=True, uses_counts_only=False, normalisation=SCALE):
        self.answer, self.name, self.deterministic = answer, name, deterministic
        self.uses_counts_only, self.normalisation = uses_counts_only, normalisation
        self.fits, self.seen = [], []

    def fit(self, train, panel, *, seed):
        self.panel, self.seed = panel, seed
        self.fits.append(([s.slide_id for s in train], len(panel), seed))

    def predict(self, slide):
        self.seen.append(slide)
        return self.answer(slide, self.panel, self.seed)


def oracle(world, *, half_width=1.0, level=None):
    """Return an answer that knows the truth of a world's slides, its intervals of the given half width around it."""
    by_id = {slide.slide_id: slide for slide in world.slides}

    def answer(slide, panel, seed):
        truth, _ = expression_for(by_id[slide.slide_id].spots, panel, SCALE)
        familiarity = np.full(len(slide), 0.5, np.float32)
        return MethodPrediction(truth, truth - half_width, truth + half_width, familiarity, level)

    return answer


def summaries_by_method(result):
    """Return an evaluation's overall measures by method."""
    return {summary.method: summary.values for summary in result.summaries}


def noise(slide, panel, seed):
    """Answer with numbers drawn at random."""
    return MethodPrediction(np.random.default_rng(seed).normal(size=(len(slide), len(panel))).astype(np.float32))
