"""Encoding slides into what a reference keeps of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mclstexp.errors import InputError
from mclstexp.index.doubts import foreign
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.record import SlideRecord, content_hash
from mclstexp.model.model import Model
from mclstexp.notes import inform, warn
from mclstexp.progress import Whole
from mclstexp.settings import identity_dict, to_dict
from mclstexp.slide import Slide
from mclstexp.storage import sha256_file
from mclstexp.text import counted
from mclstexp.types import Progress


def identity_of(model: Model) -> ReferenceIdentity:
    """Return what a reference records of its model and refuses in another."""
    config = model.config
    settings: dict[str, Any] = {
        "encoder": identity_dict(config.encoder),
        "patch": to_dict(config.patch),
        "normalisation": to_dict(config.normalisation),
        "spot_context": model.space.spot_context,
        "key_mix": config.key_mix,
        "recipe": config.recipe,
        "retrieval": to_dict(config.retrieval),
    }
    return ReferenceIdentity(model.digest, model.space.embed_dim, model.panel, settings)


def slide_records(
    slides: Sequence[Slide], model: Model, *, on_progress: Progress | None = None
) -> Iterator[SlideRecord]:
    """Encode slides one at a time, so that a reference of any size is built in the memory of one slide."""
    whole = Whole(f"encoding {counted(len(slides), 'slide')}", sum(map(len, slides)), on_progress)
    for slide in slides:
        yield slide_record(slide, model, on_progress=whole.part(len(slide)))
    whole.finish()


def content_of(slide: Slide) -> tuple[str, str, str]:
    """Return what tells a slide from another of its name: hash of its content, patient, cohort.

    Raises
    ------
    InputError
        When the slide has no counts.
    """
    slide.require_counts()
    image_sha256 = slide.image.digest() if slide.image else None
    return content_hash(slide.spots, image_sha256), slide.patient, slide.cohort


def say_cost(slides: Sequence[Slide], model: Model) -> None:
    """Say what encoding slides costs, where they are not all cached."""
    pictured = [slide for slide in slides if slide.image is not None]
    cost = model.cost(pictured)
    if cost.n_new:
        inform(str(cost))


def slide_record(slide: Slide, model: Model, *, on_progress: Progress | None = None) -> SlideRecord:
    """Encode one slide into what a reference keeps of it.

    Raises
    ------
    InputError
        When the slide has no counts.
    """
    spots = slide.spots
    if spots.counts is None or spots.genes is None:
        raise InputError(f"Slide {slide.slide_id} has no counts: it cannot be a reference.")
    keys = model.keys(slide, on_progress=on_progress)
    for text in foreign(slide, keys.familiarity):
        warn(text)
    image_sha256 = slide.image.digest() if slide.image else None
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
        spot_context=model.space.spot_context,
    )
