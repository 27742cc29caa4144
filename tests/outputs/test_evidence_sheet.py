"""The sheet: patches at one scale, and what a tile says without its image."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mclstexp.config import PatchSpec
from mclstexp.data.patches import read_patch
from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.outputs.evidence import evidence_sheet, spot_evidence
from mclstexp.outputs.evidence.patches import neighbour_tiles, query_tile
from mclstexp.outputs.evidence.sheet import draw_sheet
from mclstexp.outputs.images import View, find_image, view_of
from mclstexp.outputs.maps.style import style


def test_tiles_are_the_patches_that_were_encoded(shown: Any) -> None:
    prediction, view = shown.prediction, view_of(shown.prediction)
    spec = shown.library.model.config.patch
    assert view == View(spec.size_px, spec.size_px * spec.mpp)
    spot = str(prediction.spot_ids[7])
    own = shown.library.slides[4]
    tile = query_tile(prediction, spot, view)
    np.testing.assert_array_equal(tile.patch, read_patch(own.image, own.spots.xy_px[7], spec, own.mpp))
    rows = prediction.neighbours(spot).head(6)
    slides = {slide.slide_id: slide for slide in shown.library.slides}
    for (_, row), one in zip(rows.iterrows(), neighbour_tiles(rows, shown.reference, view), strict=True):
        slide = slides[row["slide"]]
        at = slide.spots.spot_ids.tolist().index(row["spot"])
        np.testing.assert_array_equal(one.patch, read_patch(slide.image, slide.spots.xy_px[at], spec, slide.mpp))
        np.testing.assert_array_equal(one.slide.spots, slide.spots.xy_px)
        assert one.slide.picture is not None


def test_patches_have_one_scale_whatever_the_slide_s(shown: Any) -> None:
    """A window of 100 um is twice as many pixels on a slide of half the pixel size."""
    slide = shown.library.slides[0]
    fine, coarse = (View(50, 100.0).cut(slide.image, slide.spots.xy_px[14], mpp) for mpp in (1.0, 2.0))
    np.testing.assert_array_equal(coarse, read_patch(slide.image, slide.spots.xy_px[14], PatchSpec(50, None), None))
    assert fine.shape == coarse.shape
    assert not np.array_equal(fine, coarse)


def test_no_image_or_another_one_is_never_shown(shown: Any, tmp_path: Path) -> None:
    entry = shown.reference.store.entries[0]
    image = Path(entry.image_path)
    assert find_image(entry, shown.reference.path) == (image, "")
    absent = replace(entry, image_path=None)
    assert find_image(absent, shown.reference.path) == (None, "the reference has no image of this slide")
    moved = replace(entry, image_path=f"/no/where/{image.name}")
    assert find_image(moved, shown.reference.path) == (None, f"image not found: {image.name}")
    changed = tmp_path / "a" / image.name
    changed.parent.mkdir()
    shutil.copy(shown.library.slides[1].image.path, changed)
    assert find_image(moved, shown.reference.path, tmp_path)[1] == (
        f"image has changed since it was added: {image.name}"
    )
    same = tmp_path / "b" / image.name
    same.parent.mkdir()
    shutil.copy(image, same)
    assert find_image(moved, shown.reference.path, tmp_path) == (same, "")


def test_tiles_say_why_they_are_empty(shown: Any) -> None:
    """No pixel size, and a damaged query image: the sheet is drawn nevertheless."""
    prediction = shown.prediction
    spot, view = str(prediction.spot_ids[0]), view_of(shown.prediction)
    gone = replace(prediction, settings={**prediction.settings, "image": "gone.tif"})
    assert query_tile(gone, spot, view).absent == "image not found: gone.tif"
    assert query_tile(replace(prediction, settings={**prediction.settings, "image": ""}), spot, view).patch is None
    damaged = replace(prediction, settings={**prediction.settings, "image": __file__})
    assert "not an image" in query_tile(damaged, spot, view).absent
    tiles = neighbour_tiles(prediction.neighbours(spot).head(2), shown.reference, view)
    with style():
        figure = draw_sheet(spot_evidence(prediction, spot), query_tile(gone, spot, view), tiles, view)
    words = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    assert "image not found:" in words
    assert len(figure.axes) == 6


def test_the_sheet_s_text(shown: Any) -> None:
    prediction = shown.prediction
    spot, gene, view = str(prediction.spot_ids[3]), prediction.genes.symbols[0], view_of(prediction)
    evidence = spot_evidence(prediction, spot, gene, shown.reference)
    tiles = neighbour_tiles(evidence.neighbours.head(5), shown.reference, view)
    with style():
        figure = draw_sheet(evidence, query_tile(prediction, spot, view), tiles, view)
    words = [text.get_text() for text in figure.texts]
    first = evidence.neighbours.loc[1]
    (caption,) = [text for text in words if text.startswith("1. ")]
    assert caption.splitlines()[:2] == [
        f"1. {first['slide']} {first['spot']}, patient {first['patient']}",
        f"similarity {first['similarity']:.4f}, weight {first['weight']:.4f}",
    ]
    assert f"{gene} {first['value']:.2f}, contributes {first['contribution']:.4f}" in caption
    whole = " ".join(words).replace("\n", " ")
    assert f"every patch is {view.side_um:.0f} um wide" in whole
    assert "The 5 most similar of 30 neighbours are shown" in whole
    assert "Weight by patient: P" in whole


def test_nothing_in_the_sheet_overlaps(shown: Any) -> None:
    """Boxes of patches, small slides and texts, in pixels."""
    prediction, view = shown.prediction, view_of(shown.prediction)
    spot = str(prediction.spot_ids[3])
    evidence = spot_evidence(prediction, spot, prediction.genes.symbols[0], shown.reference)
    tiles = neighbour_tiles(evidence.neighbours.head(9), shown.reference, view)
    with style():
        figure = draw_sheet(evidence, query_tile(prediction, spot, view), tiles, view)
        figure.canvas.draw()
        boxes = [axes.get_window_extent() for axes in figure.axes]
        boxes += [text.get_window_extent() for text in figure.texts]
    page = figure.bbox
    for i, box in enumerate(boxes):
        assert page.x0 <= box.x0 <= box.x1 <= page.x1
        assert page.y0 <= box.y0 <= box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_the_file(shown: Any, tmp_path: Path) -> None:
    spot = str(shown.prediction.spot_ids[0])
    evidence_sheet(shown.prediction, spot, tmp_path / "s.pdf", reference=shown.reference, n=3, dpi=50)
    assert (tmp_path / "s.pdf").read_bytes().startswith(b"%PDF")
    for path, n, error in (("s.pdf", 3, ExistsAlreadyError), ("t.pdf", 0, InputError), ("t.tif", 3, InputError)):
        with pytest.raises(error):
            evidence_sheet(shown.prediction, spot, tmp_path / path, reference=shown.reference, n=n)
    with pytest.raises(InputError, match="no spot 'zzz'"):
        evidence_sheet(shown.prediction, "zzz", tmp_path / "t.pdf", reference=shown.reference)
    assert [path.name for path in tmp_path.iterdir()] == ["s.pdf"]
