"""Whether slide and patient can be read off an embedding, and decide a spot's neighbours.

    python benchmarks/cohort.py

Models are trained on all five sections (four of patient C, one of B). Two measures of every space:

- Readers: a linear (multinomial logistic) and a curved one (support vectors, Gaussian kernel) learn slide or patient
  from the vectors of three quarters of every section and are asked about the last; a quarter is made of blocks of
  tissue, so that only spots along a border have neighbours that were learnt. Mean of the recall of each class: 0.2 is
  guessing for five slides, 0.5 for two patients. Less than guessing means that a slide's mean is gone: what was learnt
  of three quarters is then wrong for the last. Vectors longer than 64 are reduced to 64 directions.
- Neighbours: of the 50 keys nearest to a spot's query, the share from its own slide (keys within 1 mm of the spot left
  out, since the same tissue is rightly alike), and, for spots of C with all keys of their own slide left out, the share
  from the same patient. Each is divided by the share of such keys among all that were searched: 1 is what a draw
  without looking gives.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import _her2st as her2st
import numpy as np
from _her2st import B, C
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mclstexp.model.model import Model
    from mclstexp.slide import Slide

NEIGHBOURS = 50
NEAR_UM = 1000.0
MAX_DIRECTIONS = 64
BLOCKS = 4
N_SPACES = 12
UNCENTRED = "shared.shrink_spots=1e9"

Vectors = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Space:
    """Queries ``(n, d)`` and the keys ``(n, d)`` they are compared with, of all spots; features are standardised."""

    name: str
    queries: Vectors
    keys: Vectors
    standardise: bool = False


@dataclass(frozen=True, eq=False)
class Spots:
    """Who the spots are: ``(n,)`` slide and patient by number, quarter of the slide, and ``(n, 2)`` place in um."""

    slide: Labels
    patient: Labels
    quarter: Labels
    xy_um: NDArray[np.float64]

    @classmethod
    def of(cls, slides: Sequence[Slide]) -> Spots:
        """Return the spots of slides, numbered."""
        patients = sorted({slide.patient for slide in slides})
        sizes = [len(slide) for slide in slides]
        return cls(
            slide=np.repeat(np.arange(len(slides)), sizes),
            patient=np.repeat([patients.index(slide.patient) for slide in slides], sizes),
            quarter=np.concatenate([quarters(slide.spots.xy_px) for slide in slides]),
            xy_um=np.concatenate([slide.spots.xy_px * slide.require_mpp() for slide in slides]),
        )


def quarters(xy: NDArray[np.float64]) -> Labels:
    """Return which quarter ``(n,)``, 0 to 3, a slide's spots belong to, from centres ``(n, 2)``.

    The spots are cut into 4 x 4 blocks of equal size, and a quarter takes one block of every row and column. Were it
    one corner of the tissue, the rest of a centred slide would lie opposite, and readers would answer far worse than by
    guessing.
    """
    n, order = len(xy), np.arange(len(xy))
    column, row = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    column[np.argsort(xy[:, 0], kind="stable")] = order * BLOCKS // max(n, 1)
    for number in range(BLOCKS):
        own = np.flatnonzero(column == number)
        row[own[np.argsort(xy[own, 1], kind="stable")]] = np.arange(len(own)) * BLOCKS // max(len(own), 1)
    return (column + row) % BLOCKS


def readers() -> dict[str, Any]:
    """Return the classifiers by name."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    return {
        "linear": LogisticRegression(max_iter=2000, class_weight="balanced"),
        "curved": SVC(kernel="rbf", class_weight="balanced"),
    }


def readable(vectors: Vectors, label: Labels, fold: Labels, reader: Any) -> float:
    """Return the mean recall over classes of a reader that is asked about one fold at a time."""
    from sklearn.decomposition import PCA
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps: list[Any] = [StandardScaler()]
    if vectors.shape[1] > MAX_DIRECTIONS:
        steps.append(PCA(MAX_DIRECTIONS, whiten=True, random_state=0))
    pipeline = make_pipeline(*steps, reader)
    answers = cross_val_predict(pipeline, vectors, label, groups=fold, cv=LeaveOneGroupOut())
    return float(balanced_accuracy_score(label, answers))


def unit(vectors: Vectors) -> Vectors:
    """Scale rows to unit length."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))


def purity(
    space: Space, same: NDArray[np.bool_], searched: NDArray[np.bool_], asked: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return the mean share of nearest keys that are ``same`` as the query, and what a blind draw would give.

    Parameters
    ----------
    same, searched
        ``(n, n)``: whether key j is of query i's kind, and whether it may be found.
    asked
        ``(n,)`` the queries.
    """
    similarity = np.where(searched, unit(space.queries) @ unit(space.keys).T, -np.inf)[asked]
    k = min(NEIGHBOURS, int(searched[asked].sum(axis=1).min()))
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    share = np.take_along_axis(same[asked], nearest, axis=1).mean(axis=1)
    blind = (same & searched)[asked].sum(axis=1) / searched[asked].sum(axis=1)
    return float(share.mean()), float(blind.mean())


def measure(space: Space, spots: Spots) -> dict[str, Any]:
    """Measure one space."""
    if space.standardise:
        space = dataclasses.replace(space, queries=standard(space.queries), keys=standard(space.keys))
    row: dict[str, Any] = {"space": space.name, "numbers": space.keys.shape[1]}
    for name, reader in readers().items():
        row[f"slide, {name}"] = readable(space.keys, spots.slide, spots.quarter, reader)
        row[f"patient, {name}"] = readable(space.keys, spots.patient, spots.quarter, reader)
    same_slide = spots.slide[:, None] == spots.slide
    same_patient = spots.patient[:, None] == spots.patient
    step = spots.xy_um[:, None] - spots.xy_um
    near = same_slide & (np.hypot(step[..., 0], step[..., 1]) <= NEAR_UM)
    several = np.array([(same_patient & ~same_slide)[i].any() for i in range(len(spots.slide))])
    row["own slide"], row["own slide, blind"] = purity(space, same_slide, ~near, np.ones(len(near), dtype=bool))
    row["patient"], row["patient, blind"] = purity(space, same_patient, ~same_slide, several)
    row["own slide x"] = row["own slide"] / row["own slide, blind"]
    row["patient x"] = row["patient"] / row["patient, blind"]
    return row


def standard(vectors: Vectors) -> Vectors:
    """Centre and scale each column."""
    sd = vectors.std(axis=0)
    return np.asarray((vectors - vectors.mean(axis=0)) / np.where(sd > 1e-9, sd, 1.0))


def spaces(options: argparse.Namespace, slides: Sequence[Slide]) -> Iterator[Space]:
    """Yield every space, each model trained when its turn comes."""
    from mclstexp.evaluate.retrieval import last_layer_features

    config = her2st.model_config(options, "calibrate=false")
    last = last_layer_features(config, her2st.resources(options))
    model = her2st.trained(options, slides, config)
    raw = np.concatenate([model.features(slide) for slide in slides]).astype(np.float64)
    top = np.concatenate([last(slide) for slide in slides]).astype(np.float64)
    centred = np.concatenate([model.features(slide) - model.features(slide).mean(axis=0) for slide in slides])
    centred = centred.astype(np.float64)
    yield Space("features of the recipe", raw, raw, standardise=True)
    yield Space("the same, slides centred", centred, centred, standardise=True)
    yield Space("features of the last layer", top, top, standardise=True)
    yield from embedded("default", model, slides)
    without = her2st.model_config(options, "calibrate=false", UNCENTRED)
    yield from embedded("default, slides not centred", her2st.trained(options, slides, without), slides)
    paper = her2st.model_config(options, name="paper")
    yield from embedded("paper", her2st.trained(options, slides, paper), slides)


def embedded(name: str, model: Model, slides: Sequence[Slide]) -> Iterator[Space]:
    """Yield a model's embeddings of images and spots, and its keys as queries meet them."""
    image = np.concatenate([model.embed_patches(slide) for slide in slides]).astype(np.float64)
    spot = np.concatenate([model.embed_spots(slide) for slide in slides]).astype(np.float64)
    keys = np.concatenate([model.keys(slide).embedding for slide in slides]).astype(np.float64)
    yield Space(f"{name}: image", image, image)
    yield Space(f"{name}: spot", spot, spot)
    yield Space(f"{name}: keys, asked by image", image, keys)


def main() -> None:
    options = her2st.parse(her2st.parser(__doc__, "cohort"))
    slides = her2st.read(options, (*C, *B))
    spots = Spots.of(slides)
    results: dict[str, Any] = {"facts": her2st.facts(options), "spots": {s.slide_id: len(s) for s in slides}}
    print(her2st.describe(results["facts"]))
    say = her2st.pace("spaces")
    rows = []
    for space in spaces(options, slides):
        rows.append(measure(space, spots))
        say("measured", len(rows), N_SPACES)
    her2st.save(options, {**results, "rows": rows})
    reading = [f"{what}, {name}" for what in ("slide", "patient") for name in readers()]
    her2st.show(
        "read off (guessing: slide 0.2, patient 0.5)",
        ["space", "numbers", *reading],
        [[row["space"], row["numbers"], *(row[key] for key in reading)] for row in rows],
    )
    keys = ["own slide", "own slide, blind", "own slide x", "patient", "patient, blind", "patient x"]
    her2st.show(
        f"share of the {NEIGHBOURS} nearest keys (x: of a blind draw)",
        ["space", *keys],
        [[row["space"], *(row[key] for key in keys)] for row in rows],
    )


if __name__ == "__main__":
    main()
