"""The neighbours that a page holds of every spot: the nearest by name, all of them summed up by slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mclstexp.outputs.report.pack import packed, packed_text
from mclstexp.predict.prediction import Prediction
from mclstexp.types import FloatArray, IdArray

NEAREST = 24
"""Neighbours of a spot that a page names; the sums are of all."""


@dataclass(frozen=True, eq=False)
class PageEvidence:
    """The nearest neighbours of a prediction's spots.

    Attributes
    ----------
    k
        The most neighbours that a spot has.
    spot, similarity, weight
        ``(n, m)`` position of each neighbour in the tables below (-1 for none), its similarity and its weight.
    row_id, x_px, y_px, slide
        ``(R,)`` of each distinct neighbour: id in the reference, place on its slide, position in ``slides``.
    spot_ids, labels
        ``(R,)`` names of the distinct neighbours; their labels, "" for none.
    slides
        ``(S,)`` slide, patient and cohort.
    by_slide
        ``(n, S)`` weight of all the neighbours from each slide.
    """

    k: int
    spot: IdArray
    similarity: FloatArray
    weight: FloatArray
    row_id: IdArray
    x_px: NDArray[np.float64]
    y_px: NDArray[np.float64]
    slide: IdArray
    spot_ids: list[str]
    labels: list[str]
    slides: list[tuple[str, str, str]]
    by_slide: FloatArray

    def to_json(self) -> dict[str, Any]:
        """Return what the page reads."""
        return {
            "k": self.k,
            "shown": self.spot.shape[1],
            "spot": packed(self.spot, "i4"),
            "similarity": packed(self.similarity, "f4"),
            "weight": packed(self.weight, "f4"),
            "x": packed(self.x_px, "f4"),
            "y": packed(self.y_px, "f4"),
            "slide": packed(self.slide, "i4"),
            "ids": packed_text(self.spot_ids),
            "labels": packed_text(self.labels) if any(self.labels) else None,
            "slides": [
                {"slide": slide, "patient": patient, "cohort": cohort} for slide, patient, cohort in self.slides
            ],
            "by_slide": packed(self.by_slide, "f4"),
        }


def page_evidence(prediction: Prediction, nearest: int = NEAREST) -> PageEvidence | None:
    """Return the nearest neighbours of every spot, or None where the prediction has none.

    Parameters
    ----------
    prediction
        The prediction with its table of neighbours.
    nearest
        How many neighbours of a spot are kept by name.
    """
    table = prediction.evidence
    if not table.num_rows:
        return None
    query = _positions(table, prediction)
    rank = np.asarray(table["rank"], dtype=np.int64)
    weight = np.asarray(table["weight"], dtype=np.float32)
    slides, slide = _slides(table)
    n, k = len(prediction), int(rank.max())
    by_slide = np.bincount(query * len(slides) + slide, weights=weight, minlength=n * len(slides))
    near = np.flatnonzero(rank <= nearest)
    row_ids, first, inverse = np.unique(
        np.asarray(table["row_id"], dtype=np.int64)[near], return_index=True, return_inverse=True
    )
    place = (query[near], rank[near] - 1)
    distinct = table.take(pa.array(near[first]))
    return PageEvidence(
        k=k,
        spot=_filled((n, min(k, nearest)), place, inverse.ravel(), -1, np.int64),
        similarity=_filled((n, min(k, nearest)), place, np.asarray(table["similarity"])[near], np.nan),
        weight=_filled((n, min(k, nearest)), place, weight[near], 0),
        row_id=row_ids,
        x_px=np.asarray(distinct["x_px"], dtype=np.float64),
        y_px=np.asarray(distinct["y_px"], dtype=np.float64),
        slide=slide[near[first]],
        spot_ids=distinct["spot_id"].to_pylist(),
        labels=[label or "" for label in distinct["label"].to_pylist()],
        slides=slides,
        by_slide=by_slide.reshape(n, len(slides)).astype(np.float32),
    )


def _positions(table: pa.Table, prediction: Prediction) -> IdArray:
    """Position in the prediction of the spot that each row belongs to."""
    known = pa.array(prediction.spot_ids.tolist(), pa.string())
    return np.asarray(pc.index_in(table["query_spot"], value_set=known), dtype=np.int64)


def _slides(table: pa.Table) -> tuple[list[tuple[str, str, str]], IdArray]:
    """Return the slides that occur (slide, patient, cohort), and the position of each row's."""
    encoded = table["slide"].combine_chunks().dictionary_encode()
    slide = np.asarray(encoded.indices, dtype=np.int64)
    _, first = np.unique(slide, return_index=True)
    rows = table.select(["slide", "patient", "cohort"]).take(pa.array(first)).to_pylist()
    return [(row["slide"], row["patient"] or "", row["cohort"] or "") for row in rows], slide


def _filled(
    shape: tuple[int, int], place: tuple[IdArray, IdArray], values: NDArray[Any], empty: float, dtype: type = np.float32
) -> NDArray[Any]:
    matrix: NDArray[Any] = np.full(shape, empty, dtype=dtype)
    matrix[place] = values
    return matrix
