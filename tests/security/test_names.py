"""Names are never paths: whatever a slide, patient or cohort is called, nothing is written outside its folder."""

import dataclasses
import re
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
from references import Library, quietly, without_counts

import mclstexp
from mclstexp.errors import InputError
from mclstexp.index.reference import Reference
from mclstexp.model.image.features import feature_cache, slide_features
from mclstexp.outputs.export import export


@pytest.mark.parametrize(
    "name", ["../../escaped", "/tmp/escaped", "..", ".", "a/b", "C:\\escaped", "a\0b", "a\nb", " ", "a\udcff"]
)
def test_a_slide_has_no_path_for_a_name(library: Library, name: str) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(library.slides[0], slide_id=name)


@pytest.mark.parametrize("name", ["../../escaped", "%2e%2e%2f", "-rf"])
def test_no_name_is_a_path(library: Library, tmp_path: Path, name: str) -> None:
    inner = tmp_path / "deep" / "inside"
    inner.mkdir(parents=True)
    slide_id = name.replace("/", "_")
    slides = [
        dataclasses.replace(slide, slide_id=one, patient=name, cohort=name)
        for slide, one in zip(library.slides[:2], (slide_id, "other"), strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mclstexp.MclstexpWarning)
        reference = Reference.build(inner / "reference", slides, library.model)
        reference.tag("v1")
        prediction = quietly(reference, without_counts(library.slides[4], slide_id), k=5)
        with nullcontext() if slide_id == name else pytest.raises(InputError):
            dataclasses.replace(prediction, slide_id=name)  # as somebody may have changed it
        prediction.save(inner / "out.h5ad")
        mclstexp.report(inner / "out.h5ad", inner / "out.html", patches=4, image_px=256)
        for suffix in ("csv", "geojson"):
            export(prediction, inner / f"out.{suffix}")
        reference.remove(slides=[slide_id])
        for tag in ("../../escaped", "/tmp/escaped", ".."):
            with pytest.raises(InputError):
                reference.tag(tag)
    written = {path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*") if path.is_file()}
    expected = ("reference", "out.h5ad", "out.neighbours.parquet", "out.html", "out.csv", "out.geojson")
    assert written == {("deep", "inside", part) for part in expected}
    assert Reference.verify(inner / "reference").ok


def test_the_cache_is_named_by_hashes(library: Library, tmp_path: Path) -> None:
    slide = dataclasses.replace(library.slides[0], slide_id="..escaped")
    cache = feature_cache(tmp_path / "in" / "cache")
    slide_features(slide, library.model.encoder, library.model.config.patch, cache=cache)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert all(re.fullmatch(r"[0-9a-f]{16,}\.\w+", path.name) for path in kept), kept
    assert all(path.is_relative_to(tmp_path / "in" / "cache") for path in kept)
