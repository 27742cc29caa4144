"""A query, step by step: encode, search and predict, compare with the reference, assemble the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mclstexp.config import Normalisation, RetrievalConfig
from mclstexp.data.positions.lattice import pitch_px
from mclstexp.data.tile_features import TileFeatures
from mclstexp.errors import MismatchError
from mclstexp.index.doubts import unfamiliar, unlike_pixel_size
from mclstexp.index.familiarity import familiarity
from mclstexp.index.filter import Filter, allowed_rows, choose_genes
from mclstexp.index.leakage import leakage_warnings
from mclstexp.index.search.backend import Search
from mclstexp.index.source import StoreSource
from mclstexp.index.store.store import ReferenceStore
from mclstexp.model.calibration import smaller_percentile
from mclstexp.model.linear_features import Seen
from mclstexp.model.model import Model
from mclstexp.panel import GenePanel
from mclstexp.predict.evidence import NEIGHBOUR_SCHEMA
from mclstexp.predict.prediction import Prediction
from mclstexp.predict.predictor import SHARES, Predicted, Predictor, Query
from mclstexp.predict.source import NEAREST, Neighbours
from mclstexp.settings import to_dict
from mclstexp.slide import Slide
from mclstexp.types import Device, FloatArray, Progress

THUMBNAIL_PX = 1500
SPOT_SHARE_OF_PITCH = 0.55
"""Diameter of a spot over the distance to the next: 55 um of 100 on Visium, 100 of 200 on legacy ST."""


@dataclass(frozen=True)
class QueryOptions:
    """What `Reference.query` was asked for; None takes the model's own."""

    genes: GenePanel | Sequence[str] | Literal["all"] | None = None
    retrieval: RetrievalConfig | None = None
    normalisation: Normalisation | None = None
    filter: Filter | None = None
    features: TileFeatures | None = None
    search: Search = "faiss"
    device: Device = "auto"
    thumbnail: bool = True
    command: str = ""
    on_progress: Progress | None = None


def predict_slide(slide: Slide, model: Model, store: ReferenceStore, options: QueryOptions) -> Prediction:
    """Predict a slide's expression from its nearest reference spots.

    Parameters
    ----------
    slide
        Image and spot positions; counts, if any, are not looked at.
    model
        The reference's model.
    """
    config = model.config
    genes = choose_genes(store, options.genes)
    if options.normalisation not in (None, store.normalisation):
        store.require_counts("Another normalisation")
    allowed = allowed_rows(store, options.filter)
    leaks = leakage_warnings(slide, store, trained_on=model.slides, allowed=allowed)
    features, checked = _features(slide, model, options)
    query = Query(
        embedding=model.space.embed_images(features, slide),
        features=features,
        genes=genes,
        rule=options.normalisation or config.normalisation,
        retrieval=options.retrieval or config.retrieval,
        allowed=allowed,
        # Whoever asks for some kind of spot only, wants their level too.
        levelled=options.filter is None or options.filter.where is None,
    )
    source = StoreSource(store, options.device, search=options.search)
    predicted = Predictor(model.space, config, model.panel).predict(source, query)
    distance = None if model.calibration is None else model.calibration.distance(features)
    percentile = familiarity(store, predicted.neighbours, device=options.device, on_progress=options.on_progress)
    if model.calibration is not None and distance is not None:
        percentile = smaller_percentile(percentile, model.calibration.familiarity(distance))
    notes = [*slide.notes, *leaks, *checked, *unfamiliar(percentile)]
    notes += [*unlike_pixel_size(slide, store.entries), *_few_neighbours(predicted, query, slide)]
    prediction = _assemble(slide, predicted, query, percentile, model, store, options)
    if model.calibration is not None and distance is not None:
        prediction, note = _with_calibration(prediction, predicted, query, model, distance)
        notes += note
    settings = {**prediction.settings, "leakage": "\n".join(leaks), "notes": notes}
    return replace(prediction, settings=settings)


def _features(slide: Slide, model: Model, options: QueryOptions) -> tuple[Seen, list[str]]:
    """Return the slide's image features: encoded, or given and checked, and how."""
    if options.features is None:
        return model.seen(slide, on_progress=options.on_progress), []
    if len(options.features) != len(slide):
        raise MismatchError(f"{options.features.name} has {len(options.features)} tiles, the slide {len(slide)} spots.")
    return options.features.values, [model.check_features(options.features, slide)]


def _few_neighbours(predicted: Predicted, query: Query, slide: Slide) -> list[str]:
    lacking = int(((predicted.neighbours.ids >= 0).sum(axis=1) < query.retrieval.k).sum())
    if not lacking:
        return []
    return [f"{lacking} of {len(slide)} spots have fewer than {query.retrieval.k} neighbours: no more spots remain."]


def _with_calibration(
    prediction: Prediction, predicted: Predicted, query: Query, model: Model, distance: FloatArray
) -> tuple[Prediction, list[str]]:
    """Add each gene's expected reliability, and intervals where the settings are those that they are calibrated for."""
    calibration, config = model.calibration, model.config
    if calibration is None:
        return prediction, []
    columns = model.panel.columns(query.genes)
    reliability = np.where(columns >= 0, calibration.reliability[columns], np.float32(np.nan))
    prediction = replace(prediction, var={**prediction.var, "reliability": reliability})
    if query.rule != config.normalisation or query.retrieval != config.retrieval:
        return prediction, ["No intervals: they are calibrated for the model's own normalisation and neighbours."]
    lower, upper = calibration.interval(
        predicted.mean,
        predicted.spread,
        columns,
        nearness=predicted.neighbours.first(NEAREST).mean_similarity(),
        distance=distance,
    )
    settings = {**prediction.settings, "interval_level": calibration.level}
    return replace(prediction, lower=lower, upper=upper, settings=settings), []


def _assemble(
    slide: Slide,
    predicted: Predicted,
    query: Query,
    percentile: FloatArray,
    model: Model,
    store: ReferenceStore,
    options: QueryOptions,
) -> Prediction:
    spots, image = slide.spots, slide.image
    thumbnail = image.thumbnail(THUMBNAIL_PX) if image and options.thumbnail else None
    reasons = [predicted.missing.get(symbol, "") for symbol in query.genes.symbols]
    obs: dict[str, NDArray[Any]] = {
        "similarity": predicted.neighbours.similarity[:, 0],
        "n_effective": predicted.n_effective,
        **{f"share_{name}": predicted.shares[:, place] for place, name in enumerate(SHARES)},
    }
    if np.isfinite(percentile).all():
        obs["familiarity"] = percentile
    return Prediction(
        slide_id=slide.slide_id,
        spot_ids=spots.spot_ids,
        xy_px=spots.xy_px,
        array_row=spots.array_row,
        array_col=spots.array_col,
        genes=query.genes,
        mean=predicted.mean,
        retrieved=predicted.retrieved if predicted.adjusted else None,
        sd=predicted.sd,
        obs=obs,
        var={"missing_reason": reasons} if any(reasons) else {},
        evidence=_evidence(store, predicted.neighbours, predicted.weights, spots.spot_ids),
        settings=_settings(slide, predicted, query, model, store, options),
        thumbnail=thumbnail,
        thumbnail_scale=thumbnail.shape[1] / image.size_px[0] if thumbnail is not None and image else None,
        spot_diameter_px=_spot_diameter(spots.xy_px),
        mpp=slide.mpp,
        embedding=query.embedding,
        tissue=slide.tissue,
    )


def _settings(
    slide: Slide, predicted: Predicted, query: Query, model: Model, store: ReferenceStore, options: QueryOptions
) -> dict[str, Any]:
    """Return what decided the prediction, as plain JSON values."""
    config = model.config
    return {
        "model": store.identity.model_digest,
        "recipe": config.recipe,
        "reference": str(store.root),
        "reference_version": store.version,
        "normalisation": to_dict(query.rule),
        "panel_genes": list(model.panel.symbols),
        "retrieval": to_dict(query.retrieval),
        "correction": config.correction if query.rule == config.normalisation else 0.0,
        "blend": config.blend if query.rule == config.normalisation else 0.0,
        "level": predicted.level,
        "patch": to_dict(config.patch),
        "encoder": to_dict(config.encoder),
        "filter": to_dict(options.filter) if options.filter else {},
        "search": options.search,
        "image": str(slide.image.path) if slide.image else "",
        "mpp_source": slide.mpp_source or "unknown",
        "command": options.command,
    }


def _evidence(
    store: ReferenceStore, neighbours: Neighbours, weights: FloatArray, spot_ids: NDArray[np.str_]
) -> pa.Table:
    """Return a row for each query spot and neighbour: who it is, where it lies, how similar, how heavy."""
    present = neighbours.ids >= 0
    query, rank = np.nonzero(present)
    ids = neighbours.ids[present]
    spots = store.spots(ids, ["spot_id", "array_row", "array_col", "x_px", "y_px", "label"])
    numbers = pa.array(store.slide_numbers(ids))
    columns = {
        "query_spot": pa.array(spot_ids.tolist(), pa.string()).take(pa.array(query)),
        "rank": pa.array(rank + 1, pa.int32()),
        "row_id": pa.array(ids, pa.int64()),
        "similarity": pa.array(neighbours.similarity[present], pa.float32()),
        "weight": pa.array(weights[present], pa.float32()),
    }
    for name, attribute in (("cohort", "cohort"), ("patient", "patient"), ("slide", "slide_id")):
        columns[name] = pa.array([getattr(entry, attribute) for entry in store.entries], pa.string()).take(numbers)
    for name in spots.column_names:
        columns[name] = spots[name]
    return pa.table(columns).select(NEIGHBOUR_SCHEMA.names).cast(NEIGHBOUR_SCHEMA)


def _spot_diameter(xy_px: NDArray[np.float64]) -> float:
    distance = pitch_px(xy_px)
    return 100.0 if distance is None else max(1.0, distance * SPOT_SHARE_OF_PITCH)
