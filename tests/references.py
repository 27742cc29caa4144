"""A small reference with its model, as users build one."""

import dataclasses
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from worlds import TINY, tiny_slides

from mclstexp.errors import MclstexpWarning
from mclstexp.index.reference import Reference
from mclstexp.model.model import Model
from mclstexp.predict.prediction import Prediction
from mclstexp.slide import Slide
from mclstexp.train import train


@dataclass(frozen=True)
class Library:
    """Slides P1_A, P1_B, P2_A, P2_B and P3_A; a model of the first four; the folder of a reference of them."""

    slides: list[Slide]
    model: Model
    folder: Path

    def copy(self, folder: Path) -> Reference:
        """Return a reference of its own, with a model of its own, on the CPU."""
        shutil.copytree(self.folder, folder)
        return Reference.open(folder, device="cpu", cache=False)


def build_library(folder: Path) -> Library:
    """Train and build; a few seconds."""
    slides = tiny_slides(folder, 5, n_spots=36, per_patient=2)
    config = dataclasses.replace(TINY, retrieval=dataclasses.replace(TINY.retrieval, k=30))
    model = train(slides[:4], recipe=config, encoder_weights="random", n_genes=30, device="cpu", cache=False)
    Reference.build(folder / "reference", slides[:4], model, message="the four", command="mst build-index refs/")
    return Library(slides, model, folder / "reference")


def without_counts(slide: Slide, name: str = "query", patient: str = "") -> Slide:
    """Return the slide as somebody who knows its image alone has it."""
    spots = dataclasses.replace(slide.spots, counts=None, genes=None, labels=None)
    return dataclasses.replace(slide, slide_id=name, patient=patient, cohort="", spots=spots)


def quietly(reference: Reference, slide: Slide, **options: object) -> Prediction:
    """Query without a word: what is said stays in the prediction's notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        return reference.query(slide, thumbnail=False, **options)  # type: ignore[arg-type]
