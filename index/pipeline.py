"""Where encoders and reference meet: build and grow a reference, predict a slide, evaluate by retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import Normalisation, RetrievalConfig, to_dict
from mclstexp.errors import FormatError, InputError
from mclstexp.files import sha256_file
from mclstexp.index.familiarity import familiarity, mean_similarity
from mclstexp.index.retrieval import Filter, Retrieval, allowed_rows, retrieve
from mclstexp.index.search.spot_index import Neighbors, SpotIndex
from mclstexp.index.seen import seen_before
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.record import SlideRecord, content_hash
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.store.writer import AddReport
from mclstexp.model.calibration import Calibration, smaller_percentile
from mclstexp.model.folder import ModelFiles, load_model, save_model
from mclstexp.model.image.features import FeatureCache
from mclstexp.model.model import Device, EncoderPair, columns_in
from mclstexp.panel import GenePanel
from mclstexp.predict.prediction import NEIGHBOUR_SCHEMA, Prediction
from mclstexp.predict.source import NEAREST
from mclstexp.slide import Slide
from mclstexp.types import FloatArray

Progress = Callable[[int, int], None]
FAMILIARITY_K = 20
"""Neighbours whose mean similarity says how familiar a patch is."""

UNFAMILIAR = 5.0
"""Median percentile of a slide's patches below which the whole slide is called unlike the reference."""

THUMBNAIL_PX = 1500
SPOT_SHARE_OF_PITCH = 0.55
"""Diameter of a spot over the distance to the next: 55 um of 100 on Visium, 100 of 200 on legacy ST."""


def identity_of(model: ModelFiles, encoders: EncoderPair) -> ReferenceIdentity:
    """Return what a reference records of its model and refuses in another."""
    config = model.config
    settings: dict[str, Any] = {
        "encoder": to_dict(config.encoder),
        "patch": to_dict(config.patch),
        "normalisation": to_dict(config.normalisation),
        "spot_context": encoders.spot_context,
        "key_mix": config.key_mix,
        "recipe": config.recipe,
        "retrieval": to_dict(config.retrieval),
    }
    return ReferenceIdentity(model.digest(), encoders.space.embed_dim, model.panel, settings)


def slide_record(slide: Slide, encoders: EncoderPair, *, on_progress: Progress | None = None) -> SlideRecord:
    """Encode one slide into what a reference keeps of it.

    Raises
    ------
    InputError
        When the slide has no counts.
    """
    spots = slide.spots
    if spots.counts is None or spots.genes is None:
        raise InputError(f"Slide {slide.slide_id} has no counts: it cannot be a reference.")
    keys = encoders.encode_keys(slide, on_progress=on_progress)
    image_sha256 = sha256_file(slide.image.path) if slide.image else None
    return SlideRecord(
        slide_id=slide.slide_id,
        patient=slide.patient,
        cohort=slide.cohort,
        content_hash=content_hash(spots, image_sha256),
        spot_ids=spots.spot_ids,
        xy_px=spots.xy_px,
        array_row=spots.array_row,
        array_col=spots.array_col,
        embedding=keys.embedding,
        image_embedding=keys.image_embedding,
        counts=spots.counts,
        genes=spots.genes,
        labels=spots.labels,
        sources={str(path): sha256_file(path) for path in slide.sources if path.is_file()},
        image_path=str(slide.image.path) if slide.image else None,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        spot_context=encoders.spot_context,
    )


def slide_records(
    slides: Iterable[Slide], encoders: EncoderPair, *, on_slide: Callable[[str], Progress | None] | None = None
) -> Iterator[SlideRecord]:
    """Encode slides one at a time, so that a reference of any size is built in the memory of one slide."""
    for slide in slides:
        yield slide_record(slide, encoders, on_progress=on_slide(slide.slide_id) if on_slide else None)


@dataclass(frozen=True)
class BuildOptions:
    """How to build a reference: index kind, the command for its history, whether to replace one."""

    index: str = "auto"
    command: str = ""
    force: bool = False
    on_slide: Callable[[str], Progress | None] | None = None


def build_reference(
    path: Path, slides: Sequence[Slide], model: ModelFiles, encoders: EncoderPair, options: BuildOptions
) -> ReferenceStore:
    """Encode slides with a model and write them as a reference, the model's copy inside.

    Raises
    ------
    InputError, ExistsAlreadyError, StorageError
        There are no slides; the reference exists; the disk refused.
    """
    if not slides:
        raise InputError("There is no slide to build a reference from.")
    return ReferenceStore.create(
        path,
        identity_of(model, encoders),
        slide_records(slides, encoders, on_slide=options.on_slide),
        message=f"build from {len(slides)} slides",
        command=options.command,
        index=options.index,
        force=options.force,
        save_model=lambda folder: save_model(folder, model, force=True),
    )


def add_slides(
    path: Path,
    slides: Sequence[Slide],
    encoders: EncoderPair,
    *,
    replace: bool = False,
    command: str = "",
    on_slide: Callable[[str], Progress | None] | None = None,
) -> AddReport:
    """Encode and add slides that the reference does not hold yet; nothing else is touched."""
    store = ReferenceStore.open(path)
    records = slide_records(slides, encoders, on_slide=on_slide)
    return store.add(records, replace=replace, message=f"add {len(slides)} slides", command=command)


def reference_model(
    store: ReferenceStore, folder: Path | None = None, *, device: Device = "auto", cache: FeatureCache | None = None
) -> tuple[ModelFiles, EncoderPair]:
    """Load the reference's own model, or the one in ``folder`` after checking that it is the same.

    Raises
    ------
    FormatError, MismatchError
        The copy is missing or damaged; the given model is another.
    """
    own = store.model_folder
    if folder is None and not own.is_dir():
        raise FormatError(f"Reference {store.root} holds no copy of its model; give the model with --model FOLDER.")
    model = load_model(folder or own)
    encoders = EncoderPair.from_files(model, device=device, cache=cache)
    store.check_identity(identity_of(model, encoders))
    return model, encoders


@dataclass(frozen=True)
class QueryOptions:
    """What to predict, and from which references.

    Attributes
    ----------
    genes
        None for the model's panel, ``"all"``, or names.
    retrieval, normalisation
        None takes the model's.
    """

    genes: GenePanel | Sequence[str] | Literal["all"] | None = None
    retrieval: RetrievalConfig | None = None
    normalisation: Normalisation | None = None
    filter: Filter | None = None
    device: Device = "auto"
    thumbnail: bool = True
    command: str = ""
    on_progress: Progress | None = None


@dataclass(frozen=True, eq=False)
class Predicted:
    """A prediction, and what was assumed or noticed on the way."""

    prediction: Prediction
    notes: tuple[str, ...] = field(default=())


def predict_slide(slide: Slide, encoders: EncoderPair, store: ReferenceStore, options: QueryOptions) -> Predicted:
    """Predict a slide's expression from its nearest reference spots.

    Parameters
    ----------
    slide
        Image and spot positions; counts, if any, are not looked at.
    """
    features = encoders.features(slide, on_progress=options.on_progress)
    query = encoders.space.embed_images(features, slide)
    config = options.retrieval or encoders.config.retrieval
    rule = options.normalisation or encoders.config.normalisation
    found = retrieve(
        store,
        query,
        config,
        genes=options.genes,
        filter=options.filter,
        normalisation=rule,
        device=options.device,
    )
    obs: dict[str, NDArray[Any]] = {
        "similarity": found.neighbours.similarity[:, 0],
        "n_effective": found.n_effective,
    }
    allowed = allowed_rows(store, options.filter)
    seen = seen_before(slide, store, trained_on=encoders.trained_on, allowed=allowed)
    percentile = familiarity(store, query, k=FAMILIARITY_K, allowed=allowed)
    calibration = encoders.calibration
    distance = None if calibration is None else calibration.distance(features)
    if calibration is not None and distance is not None:
        percentile = smaller_percentile(percentile, calibration.familiarity(distance))
    if np.isfinite(percentile).all():
        obs["familiarity"] = percentile
    # Whoever asks for some kind of spot only, wants their level too.
    level = options.filter is None or not options.filter.where
    corrected = _corrected(found, encoders, store.index(options.device), query, features, level=level)
    prediction = _assemble(slide, found, corrected, obs, encoders, store, options)
    prediction = replace(prediction, settings={**prediction.settings, "leakage": "\n".join(seen)})
    notes = [*seen, *_strangeness_note(obs), *found.notes]
    if calibration is not None and distance is not None:
        prediction = _with_reliability(prediction, calibration, encoders.panel)
        if rule == encoders.config.normalisation and config == encoders.config.retrieval:
            prediction = _with_interval(prediction, calibration, encoders.panel, found, distance)
        else:
            notes.append("No intervals: they are calibrated for the model's own normalisation and neighbours.")
    return Predicted(prediction, tuple(notes))


def _corrected(
    found: Retrieval, encoders: EncoderPair, index: SpotIndex, query: FloatArray, features: FloatArray, *, level: bool
) -> FloatArray | None:
    """Return the weighted mean after all corrections that the model asks for, or None when it asks for none."""
    own_scale = found.normalisation == encoders.config.normalisation
    corrects = own_scale and encoders.corrects
    if found.shift is None and not corrects:
        return None
    corrected = found.mean if found.shift is None else found.mean + found.shift
    if corrects:
        row_ids, moved = found.neighbours.row_ids, np.empty_like(corrected)
        step = max(1, 1_000_000 // row_ids.shape[1])
        for start in range(0, len(query), step):
            part = slice(start, start + step)
            keys = index.keys(row_ids[part]).reshape(*row_ids[part].shape, -1)
            moved[part] = encoders.corrected(corrected[part], found.genes, query[part], keys, found.weights[part])
        corrected = moved
    if level and found.level is not None:
        corrected = encoders.relevelled(corrected, found.genes, found.level, features, own_scale=own_scale)
    return np.maximum(corrected, np.float32(0))


def _strangeness_note(obs: Mapping[str, NDArray[Any]]) -> list[str]:
    if "familiarity" not in obs or not len(obs["familiarity"]):
        return []
    median = float(np.median(obs["familiarity"]))
    if median >= UNFAMILIAR:
        return []
    return [
        f"Warning: the patches of this slide are unlike the reference's (median familiarity {median:.1f} of 100): "
        "another tissue, another stain, a wrong pixel size or a blank? Do not rely on this prediction."
    ]


def _with_reliability(prediction: Prediction, calibration: Calibration, panel: GenePanel) -> Prediction:
    columns = columns_in(panel, prediction.genes)
    reliability = np.where(columns >= 0, calibration.reliability[columns], np.float32(np.nan))
    return replace(prediction, var={**prediction.var, "reliability": reliability})


def _with_interval(
    prediction: Prediction, calibration: Calibration, panel: GenePanel, found: Retrieval, distance: FloatArray
) -> Prediction:
    if prediction.sd is None:
        return prediction
    near = Neighbors(found.neighbours.row_ids[:, :NEAREST], found.neighbours.similarity[:, :NEAREST])
    lower, upper = calibration.interval(
        prediction.mean,
        prediction.sd,
        columns_in(panel, prediction.genes),
        nearness=mean_similarity(near),
        distance=distance,
    )
    settings = {**prediction.settings, "interval_level": calibration.level}
    return replace(prediction, lower=lower, upper=upper, settings=settings)


def _assemble(
    slide: Slide,
    found: Retrieval,
    corrected: FloatArray | None,
    obs: dict[str, NDArray[Any]],
    encoders: EncoderPair,
    store: ReferenceStore,
    options: QueryOptions,
) -> Prediction:
    spots = slide.spots
    thumbnail = slide.image.thumbnail(THUMBNAIL_PX) if slide.image and options.thumbnail else None
    scale = thumbnail.shape[1] / slide.image.size_px[0] if thumbnail is not None and slide.image else None
    reasons = [found.missing.get(symbol, "") for symbol in found.genes.symbols]
    settings = {
        "model": store.identity.model_digest,
        "recipe": encoders.config.recipe,
        "reference": str(store.root),
        "reference_version": store.version,
        "normalisation": to_dict(found.normalisation),
        "panel_genes": list(encoders.panel.symbols),
        "retrieval": to_dict(options.retrieval or encoders.config.retrieval),
        "correction": encoders.config.correction if found.normalisation == encoders.config.normalisation else 0.0,
        "level": _level_source(found, encoders, options),
        "patch": to_dict(encoders.config.patch),
        "encoder": to_dict(encoders.config.encoder),
        "filter": to_dict(options.filter) if options.filter else {},
        "image": str(slide.image.path) if slide.image else "",
        "mpp_source": slide.mpp_source or "unknown",
        "command": options.command,
    }
    return Prediction(
        slide_id=slide.slide_id,
        spot_ids=spots.spot_ids,
        xy_px=spots.xy_px,
        array_row=spots.array_row,
        array_col=spots.array_col,
        genes=found.genes,
        mean=found.mean if corrected is None else corrected,
        retrieved=None if corrected is None else found.mean,
        sd=found.sd if found.sd is not None else np.full_like(found.mean, np.nan),
        obs=obs,
        var={"missing_reason": reasons} if any(reasons) else {},
        neighbours=_neighbour_table(found, spots.spot_ids),
        settings=settings,
        thumbnail=thumbnail,
        thumbnail_scale=scale,
        spot_diameter_px=_spot_diameter(spots.xy_px),
        mpp=slide.mpp,
    )


def _level_source(found: Retrieval, encoders: EncoderPair, options: QueryOptions) -> str:
    """Say in a word where the mean over the slide's spots comes from."""
    if found.level is None or (options.filter is not None and options.filter.where):
        return "neighbours"
    if encoders.levels and found.normalisation == encoders.config.normalisation:
        return "image"
    return "reference"


def _neighbour_table(found: Retrieval, spot_ids: NDArray[np.str_]) -> Any:
    import pyarrow as pa

    table = found.provenance
    names = pa.array(spot_ids.tolist(), pa.string()).take(table["query"].combine_chunks())
    table = table.drop_columns(["query"]).add_column(0, "query_spot", names)
    return table.select(NEIGHBOUR_SCHEMA.names).cast(NEIGHBOUR_SCHEMA)


def _spot_diameter(xy_px: FloatArray | NDArray[np.float64]) -> float:
    from scipy.spatial import cKDTree

    if len(xy_px) < 2:
        return 100.0
    distance, _ = cKDTree(xy_px).query(xy_px, k=[2])
    return max(1.0, float(np.median(distance)) * SPOT_SHARE_OF_PITCH)
