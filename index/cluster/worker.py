"""What a worker of a cluster does with a slide: read it, encode it, and write its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mclstexp.data.readers.addresses import SlideAddresses
from mclstexp.data.readers.twins import counts_digest
from mclstexp.index.encode import content_of, slide_record
from mclstexp.index.store.change import Rows
from mclstexp.index.store.place import Place
from mclstexp.index.store.schema import spots_schema
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.writer import stands
from mclstexp.model.image.cost import Cost
from mclstexp.model.model import Model
from mclstexp.slide import Slide


class _Slides:
    """The slides' addresses and the reference's model, as every worker has them."""

    def __init__(self, slides: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self._slides = SlideAddresses.from_json(slides)
        self._place = Place(settings["place"], settings["options"])
        with self._place.errors():
            folder = settings["folder"] or self._place.model(settings["digest"])
        self._model = Model.load(folder, device=settings["device"], cache=settings["cache"])

    def _read(self, item: Mapping[str, Any]) -> Slide:
        return self._slides.read(item["slide_id"])


class EncodeSlide(_Slides):
    """Writes the rows of a slide, unless the reference holds it.

    Parameters
    ----------
    slides
        `SlideAddresses` as JSON.
    settings
        `Workers.settings`.
    mode
        ``append`` to the reference that is there, or ``overwrite`` for one that is being built.
    time
        When the slides are said to have been added.
    known
        Name to hash, patient and cohort of the slides of the reference.
    replace
        Whether a slide of the same name and other content is written all the same.
    """

    def __init__(
        self,
        slides: Mapping[str, Any],
        settings: Mapping[str, Any],
        mode: str,
        time: str,
        known: Mapping[str, list[str]],
        replace: bool,
    ) -> None:
        super().__init__(slides, settings)
        self._mode, self._time, self._replace = mode, time, replace
        self._known = {name: (content[0], content[1], content[2]) for name, content in known.items()}
        self._schema = self._schema_of(mode)

    def _schema_of(self, mode: str) -> pa.Schema:
        if mode == "append":
            return Snapshot.at(self._place).table.dataset.schema
        return spots_schema(self._model.space.embed_dim)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return the fragments that were written, and what the driver has to know of the slide."""
        slide = self._read(item)
        content, name = content_of(slide), slide.slide_id
        answer: dict[str, Any] = {"content": content, "n_spots": len(slide), "counts": counts_digest(slide)}
        answer["has_image"] = slide.image is not None
        if stands(self._known, name, content, replace=self._replace):
            return {**answer, "there": True}
        record = slide_record(slide, self._model)
        if slide.image is not None:
            slide.image.close()
        rows = Rows(self._place, self._model.panel, self._model.space.embed_dim, self._time)
        with self._place.errors():
            rows.write([record], self._schema, self._mode)
        written = [json.dumps(fragment.to_json()) for fragment in rows.fragments]
        return {**answer, "there": False, "fragments": written, "genes": sorted(rows.genes)}


class CountSlide(_Slides):
    """Says what a slide costs, and encodes no more than a batch to know it."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return spots, patches to encode, their seconds here, and bytes of the image and of the rows."""
        slide = self._read(item)
        counts, _ = slide.require_counts()
        cost = self._model.cost([slide]) if slide.image is not None else Cost("", 1, len(slide), 0, 0, 0.0)
        n, dim = len(slide), self._model.space.embed_dim
        widths = 2 + (1 if not counts.nnz or counts.data.max() < 256 else 2)  # of a gene's number, and of a count
        return {
            "n_spots": n,
            "n_passes": cost.n_new * cost.passes,
            "seconds": cost.seconds,
            "image_bytes": slide.image.path.stat().st_size if slide.image is not None else 0,
            "row_bytes": n * 2 * 4 * dim + int(counts.nnz) * widths,
        }
