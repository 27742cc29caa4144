"""What the server knows of one prediction, and how it answers questions about it."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mclstexp.config import Normalisation
from mclstexp.data.images import open_image
from mclstexp.errors import InputError
from mclstexp.index.reference import Reference
from mclstexp.index.source import StoreSource
from mclstexp.index.store.schema import SlideEntry
from mclstexp.outputs.images import own_image, slide_image, view_of
from mclstexp.outputs.origin import reference_at_hand
from mclstexp.outputs.report.data import described, gene_layers
from mclstexp.outputs.report.evidence import NEAREST, PageEvidence, page_evidence
from mclstexp.outputs.report.pack import base64_text, packed, packed_genes
from mclstexp.outputs.report.pictures import slide_picture
from mclstexp.outputs.serve.region import Box, predict_region
from mclstexp.outputs.serve.tiles import TILE_PX, TilePyramid
from mclstexp.panel import GenePanel
from mclstexp.predict.average import AverageOptions, average
from mclstexp.predict.prediction import Prediction
from mclstexp.predict.source import ExpressionBlock
from mclstexp.settings import from_dict
from mclstexp.types import Device, FloatArray, IdArray, StrPath

PATCH_PX, OWN_PX = 144, 288
OPEN_SLIDES = 2
"""Reference slides whose pixels are at hand at once: a JPEG is decoded whole."""

FALLBACK_PX = 2048


class Session:
    """One served prediction. It reads; nothing on disk is changed.

    Parameters
    ----------
    prediction, name, folder
        The prediction, what the page calls it, and the folder of its file.
    reference
        Where its reference is now, a folder or a URI; None for the folder that the prediction says.
    device
        Where a region is computed.
    storage_options
        Of the object store where the reference lies.
    """

    def __init__(
        self,
        prediction: Prediction,
        name: str,
        folder: Path,
        *,
        reference: StrPath | None = None,
        device: Device = "auto",
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        self.prediction, self.name, self.folder, self.view = prediction, name, folder, view_of(prediction)
        self.reference, self.no_reference = reference_at_hand(
            prediction, reference, beside=folder, device=device, cache=False, storage_options=storage_options
        )
        image, self.no_image = own_image(prediction, folder)
        self.pyramid = None if image is None else TilePyramid(image)
        self._image = image
        self._slides: OrderedDict[str, TilePyramid] = OrderedDict()
        self._lock = threading.Lock()
        self._predicting = threading.Lock()

    def description(self, url: str) -> dict[str, Any]:
        """Return what the page holds from the start; the rest is asked for below ``url``."""
        prediction, genes = self.prediction, self.prediction.genes
        symbols, ensembl = list(genes.symbols), list(genes.ensembl)
        if self.reference is not None and prediction.evidence.num_rows:
            known = set(symbols)
            extra = [i for i, symbol in enumerate(self.reference.genes.symbols) if symbol not in known]
            symbols += [self.reference.genes.symbols[i] for i in extra]
            ensembl += [self.reference.genes.ensembl[i] for i in extra]
        return {
            **described(prediction, self.name),
            "ensembl": ensembl,
            "url": url,
            "genes": {"symbols": symbols, "layers": list(gene_layers(prediction))},
            "regions": self.reference is not None and self.pyramid is not None and prediction.mpp is not None,
            "patches": {"missing": self._missing_slides()},
            "patches_note": self.no_reference,
            **self._picture(url),
        }

    def _picture(self, url: str) -> dict[str, Any]:
        if self.pyramid is None:
            picture = slide_picture(self.prediction, self.folder, FALLBACK_PX)
            image: dict[str, Any] = {"data": base64_text(picture.jpeg), "origin": picture.origin}
            return {"size": list(picture.size_px), "image": image}
        width, height = self.pyramid.size_px
        origin = "the slide itself, tile by tile"
        image = {"width": width, "height": height, "tile": TILE_PX, "url": f"{url}/slide_files/", "origin": origin}
        return {"size": [width, height], "image": image}

    @cached_property
    def evidence(self) -> PageEvidence | None:
        """All neighbours of every spot."""
        return page_evidence(self.prediction, nearest=2**31 - 1)

    @cached_property
    def _spot(self) -> dict[str, int]:
        return {spot: i for i, spot in enumerate(self.prediction.spot_ids.tolist())}

    @cached_property
    def _entries(self) -> dict[str, SlideEntry]:
        return {} if self.reference is None else {entry.slide_id: entry for entry in self.reference.store.entries}

    def _missing_slides(self) -> dict[str, str]:
        if self.reference is None or self.evidence is None:
            return {}
        names = [slide for slide, _, _ in self.evidence.slides]
        return {
            name: "it has no image" for name in names if name not in self._entries or not self._entries[name].has_image
        }

    def _number(self, spot: str) -> int:
        if spot not in self._spot:
            raise InputError(f"The prediction has no spot {spot!r}.")
        return self._spot[spot]

    # --- answers

    def gene(self, name: str) -> dict[str, Any]:
        """Return a gene's layers: as predicted, or of any other gene the mean over the stored neighbours."""
        prediction = self.prediction
        column = prediction.genes.find(name)
        if column is None:
            return self._other_gene(name)
        layers = {layer: values[:, [column]] for layer, values in gene_layers(prediction).items()}
        reliability = prediction.var.get("reliability")
        value = float("nan") if reliability is None else float(reliability[column])
        reasons = prediction.var.get("missing_reason")
        return {
            **_packed_gene(layers),
            "reliability": value if math.isfinite(value) else None,
            "reason": "" if reasons is None else str(reasons[column]),
            "origin": "",
        }

    def _other_gene(self, name: str) -> dict[str, Any]:
        reference, evidence = self.reference, self.evidence
        if reference is None or evidence is None:
            return {"values": None}
        column = reference.genes.find(name)
        if column is None:
            return {"values": None}
        panel = reference.genes.subset([column])
        with self._predicting:
            mean, sd, reason = self._averaged(reference, evidence, panel)
        return {
            **_packed_gene({"mean": mean, "sd": sd}),
            "reliability": None,
            "reason": reason,
            "origin": "not in the prediction: the plain weighted mean of its neighbours in the reference, without "
            "correction, level or interval",
        }

    def _averaged(
        self, reference: Reference, evidence: PageEvidence, panel: GenePanel
    ) -> tuple[FloatArray, FloatArray, str]:
        settings = self.prediction.settings
        rule = from_dict(Normalisation, settings["normalisation"])
        least = float(settings.get("retrieval", {}).get("min_measured", 0.25))
        ids = np.where(evidence.spot >= 0, evidence.row_id[evidence.spot], -1)
        result = average(_ReadOnce(reference.store, "cpu"), ids, evidence.weight, panel, AverageOptions(rule, least))
        spread = np.full_like(result.mean, np.nan) if result.sd is None else result.sd
        return result.mean, spread, result.missing.get(panel.symbols[0], "")

    def neighbours(self, spot: str) -> dict[str, Any] | None:
        """Return a spot's nearest neighbours, and the weight of all of them by slide."""
        number, evidence = self._number(spot), self.evidence
        if evidence is None:
            return None
        rows = []
        for rank in np.flatnonzero(evidence.spot[number] >= 0)[:NEAREST].tolist():
            at = int(evidence.spot[number, rank])
            slide, patient, cohort = evidence.slides[int(evidence.slide[at])]
            entry = self._entries.get(slide)
            rows.append(
                {
                    "slide": slide,
                    "patient": patient,
                    "cohort": cohort,
                    "spot": evidence.spot_ids[at],
                    "label": evidence.labels[at],
                    "similarity": float(evidence.similarity[number, rank]),
                    "weight": float(evidence.weight[number, rank]),
                    "x": float(evidence.x_px[at]),
                    "y": float(evidence.y_px[at]),
                    "row": int(evidence.row_id[at]),
                    "patch": entry is not None and entry.has_image,
                }
            )
        sums = [
            {"slide": slide, "patient": patient, "cohort": cohort, "weight": float(weight)}
            for (slide, patient, cohort), weight in zip(evidence.slides, evidence.by_slide[number], strict=True)
        ]
        return {"rows": rows, "sums": sums, "k": evidence.k}

    def spot(self, spot: str) -> bytes:
        """Return the slide around a spot as a JPEG."""
        number = self._number(spot)
        if self.pyramid is None:
            raise InputError(f"There is no picture of the slide: {self.no_image}.")
        side = self._fov_px(self.prediction.mpp)
        x, y = (float(value) for value in self.prediction.xy_px[number])
        return self.pyramid.square(x, y, side, OWN_PX)

    def _fov_px(self, mpp: float | None) -> float:
        return self.view.side_um / mpp if self.view.side_um and mpp else 2 * self.prediction.spot_diameter_px

    def patch(self, row: int) -> bytes:
        """Return the patch of a neighbour as a JPEG; only of neighbours of this prediction.

        Raises
        ------
        InputError
            When the spot is none of the neighbours, or its slide's image is not at hand.
        """
        evidence = self.evidence
        at = -1 if evidence is None else int(np.searchsorted(evidence.row_id, row))
        if self.reference is None or evidence is None or at >= len(evidence.row_id) or evidence.row_id[at] != row:
            raise InputError(f"Spot {row} of the reference is no neighbour of this prediction.")
        entry = self._entries[evidence.slides[int(evidence.slide[at])][0]]
        with self._lock:
            pyramid = self._reference_slide(self.reference, entry)
            return pyramid.square(float(evidence.x_px[at]), float(evidence.y_px[at]), self._fov_px(entry.mpp), PATCH_PX)

    def _reference_slide(self, reference: Reference, entry: SlideEntry) -> TilePyramid:
        if entry.slide_id not in self._slides:
            image, why = slide_image(entry, reference.path)
            if image is None:
                raise InputError(f"Slide {entry.slide_id} of the reference: {why}.")
            self._slides[entry.slide_id] = TilePyramid(image)
            while len(self._slides) > OPEN_SLIDES:
                self._slides.popitem(last=False)[1].close()
        self._slides.move_to_end(entry.slide_id)
        return self._slides[entry.slide_id]

    def region(self, box: Box, gene: str) -> dict[str, Any]:
        """Predict a region anew, one at a time."""
        if self.reference is None or self._image is None:
            raise InputError(f"A region needs the slide and the reference: {self.no_image or self.no_reference}.")
        # A handle of its own: tiles are read from the other one meanwhile.
        with self._predicting, open_image(self._image.path) as image:
            region, mean, step = predict_region(self.prediction, self.reference, image, box, gene)
        layers = {"mean": region.mean}
        step_um = step * (region.mpp or 1.0)
        return {
            **_packed_gene(layers),
            "symbol": region.genes.symbols[0],
            "x": packed(region.xy_px[:, 0], "f4"),
            "y": packed(region.xy_px[:, 1], "f4"),
            "diameter": step,
            "about": f"{len(mean)} squares of {step_um:.0f} um, predicted anew as a slide of their own: level and "
            "surroundings are those of the region",
            "notes": list(region.notes),
        }

    def close(self) -> None:
        """Release the images."""
        for pyramid in (self.pyramid, *self._slides.values()):
            if pyramid is not None:
                pyramid.close()


class _ReadOnce(StoreSource):
    """A store that reads each neighbour once for a few genes, where `StoreSource` reads them again for every block."""

    def expression(self, ids: IdArray, genes: GenePanel, rule: Normalisation) -> Iterator[ExpressionBlock]:
        asked = np.where(ids < 0, ids.max(), ids)
        unique, inverse = np.unique(asked, return_inverse=True)
        values = self.store.expression(unique, genes, rule).dense(0, len(genes))
        yield ExpressionBlock(slice(0, len(ids)), slice(0, len(genes)), values, inverse.reshape(asked.shape))


def _packed_gene(layers: dict[str, FloatArray]) -> dict[str, Any]:
    """Return the layers ``(n, 1)`` of one gene as the page decodes them."""
    genes = packed_genes(list(layers.values()))
    ends = {end: [column[0] for column in genes[end]] for end in ("low", "high")}
    return {"layers": list(layers), "values": genes["values"][0], **ends}
