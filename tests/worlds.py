"""The small simulated worlds that tests share."""

import dataclasses
import zlib
from pathlib import Path

import numpy as np
from scipy import sparse

from mclstexp.config import EncoderSpec, Normalisation, PatchSpec, SharedSpaceConfig, recipe
from mclstexp.data.genes.expression import expression_for
from mclstexp.data.images import open_image
from mclstexp.data.synthetic import SlideSpec, simulate_slide
from mclstexp.data.synthetic.cohort import write_pyramid
from mclstexp.data.synthetic.slides import COHORT
from mclstexp.evaluate.scores import MethodPrediction
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide, SpotTable

TINY = dataclasses.replace(
    recipe("default"),
    encoder=EncoderSpec(name="test_resnet", pooling="stages", views=1, scales=(1.0,)),
    patch=PatchSpec(size_px=32, mpp=1.0),
    shared=SharedSpaceConfig(context_scales=()),
)
"""The default recipe on a toy encoder and small patches, for `tiny_slides`."""


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
