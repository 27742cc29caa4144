"""Image features of a slide: kept between runs, made anew when the copy is damaged."""

import dataclasses
import errno
import warnings
from pathlib import Path

import numpy as np
import pytest

from mclstexp.config import EncoderSpec, PatchSpec, recipe
from mclstexp.data.patches import iter_patches
from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.model.image import features
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.features import FeatureCache, feature_cache, missing, slide_features
from mclstexp.slide import Slide


def test_features_are_cached_and_a_damaged_cache_is_made_anew(cohort: list[Slide], tmp_path: Path) -> None:
    encoder = ImageEncoder.create(EncoderSpec("test_resnet"), "random")
    patch = dataclasses.replace(recipe("paper").patch, size_px=64)
    cache = FeatureCache(tmp_path)
    first = slide_features(cohort[0], encoder, patch, cache=cache)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    assert np.array_equal(slide_features(cohort[0], encoder, patch, cache=cache), first)
    assert file.read_bytes() == whole
    file.write_bytes(whole[:100])
    assert np.array_equal(slide_features(cohort[0], encoder, patch, cache=cache), first)


def test_subsets_of_spots_share_patches(cohort: list[Slide], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query's spots and those with counts differ; what either left is not encoded again."""
    slide, n = cohort[0], len(cohort[0])
    encoder = ImageEncoder.create(EncoderSpec("test_resnet", scales=(0.5, 1.0)), "random")
    patch, cache = PatchSpec(size_px=32, mpp=1.0), FeatureCache(tmp_path)
    whole = slide_features(slide, encoder, patch)
    monkeypatch.setattr(features, "READ", 8)
    monkeypatch.setattr(features, "KEPT_EVERY", 16)
    rows = np.arange(0, n, 2)[::-1]
    assert np.array_equal(slide_features(slide.take(rows), encoder, patch, cache=cache), whole[rows])
    assert missing(slide, encoder, patch, cache) == [(encoder.members[0], 2 * (n - len(rows)))]
    counts: list[int] = []
    again = slide_features(slide, encoder, patch, cache=cache, on_progress=lambda _, done, total: counts.append(total))
    assert np.array_equal(again, whole)
    assert set(counts) == {n - len(rows)}
    assert not any(n for _, n in missing(slide, encoder, patch, cache))


def test_what_was_encoded_before_an_interruption_is_kept(
    cohort: list[Slide], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ImageEncoder.create(EncoderSpec("test_resnet"), "random")
    patch, cache = PatchSpec(size_px=32, mpp=1.0), FeatureCache(tmp_path)
    monkeypatch.setattr(features, "READ", 8)
    monkeypatch.setattr(features, "KEPT_EVERY", 16)

    def stop(step: str, done: int, total: int) -> None:
        if done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slide_features(cohort[0], encoder, patch, cache=cache, on_progress=stop)
    assert missing(cohort[0], encoder, patch, cache)[0][1] == len(cohort[0]) - 16


def test_without_a_folder_nothing_is_kept(cohort: list[Slide], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    encoder, patch = ImageEncoder.create(EncoderSpec("test_resnet"), "random"), PatchSpec(size_px=32, mpp=None)
    slide_features(cohort[0], encoder, patch, cache=feature_cache(False))
    assert list(tmp_path.iterdir()) == []
    slide_features(cohort[0], encoder, patch, cache=feature_cache(True))
    assert len(list((tmp_path / "user").rglob("*.safetensors"))) == 1


def test_what_decides_features_decides_their_name(cohort: list[Slide], tmp_path: Path) -> None:
    """Another patch, another encoder, another image: each is encoded anew."""
    cache = FeatureCache(tmp_path)
    encoder, patch = ImageEncoder.create(EncoderSpec("test_resnet"), "random"), PatchSpec(size_px=32, mpp=1.0)
    slide_features(cohort[0], encoder, patch, cache=cache)
    slide_features(cohort[0], encoder, patch, cache=cache)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    slide_features(cohort[0], encoder, dataclasses.replace(patch, mpp=0.9), cache=cache)
    slide_features(cohort[0], ImageEncoder.create(EncoderSpec("test_resnet"), "random", seed=1), patch, cache=cache)
    slide_features(cohort[0], ImageEncoder.create(EncoderSpec("test_resnet", views=2), "random"), patch, cache=cache)
    slide_features(cohort[1], encoder, patch, cache=cache)
    slide_features(dataclasses.replace(cohort[0], mpp=0.9), encoder, patch, cache=cache)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 6


def test_an_ensemble_takes_what_its_members_have(cohort: list[Slide], tmp_path: Path) -> None:
    """Cached by member, within each scale side by side; the size at which a patch is seen anyway is no other size."""
    cache, patch = FeatureCache(tmp_path), PatchSpec(size_px=64, mpp=1.0)
    spec = EncoderSpec("test_resnet,test_efficientnet", pooling="stages", scales=(0.5, 1.0), input_px=(64, 32))
    ensemble = ImageEncoder.create(spec, "random")
    alone = [ImageEncoder.create(one, "random", seed=place) for place, one in enumerate(spec.members)]
    alone[0].members[0].spec = dataclasses.replace(spec.members[0], input_px=None)
    first = slide_features(cohort[0], alone[0], patch, cache=cache)
    assert [m.spec.name for m, n in missing(cohort[0], ensemble, patch, cache) if n] == ["test_efficientnet"]
    both = slide_features(cohort[0], ensemble, patch, cache=cache)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    assert not any(n for _, n in missing(cohort[0], ensemble, patch, cache))
    second = slide_features(cohort[0], alone[1], patch, cache=cache)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4, "what the ensemble made serves its member"
    scales = [np.split(values, 2, axis=1) for values in (first, second)]
    np.testing.assert_array_equal(both, np.hstack([scales[0][0], scales[1][0], scales[0][1], scales[1][1]]))
    np.testing.assert_array_equal(both, slide_features(cohort[0], ensemble, patch))
    wide = next(iter_patches(cohort[0], patch, batch_size=len(cohort[0])))
    np.testing.assert_allclose(both[:, both.shape[1] // 2 :], ensemble.features(wide), atol=1e-5)


def test_a_cache_that_fills_up_is_said_once_and_done_without(
    cohort: list[Slide], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mclstexp.model.image.cache.save_file", full)
    cache = FeatureCache(tmp_path)
    encoder, patch = ImageEncoder.create(EncoderSpec("test_resnet"), "random"), PatchSpec(size_px=32, mpp=1.0)
    with pytest.warns(MclstexpWarning, match="the disk is full"):
        first = slide_features(cohort[0], encoder, patch, cache=cache)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = slide_features(cohort[0], encoder, patch, cache=cache)
    np.testing.assert_array_equal(first, again)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_slide_that_cannot_be_encoded_is_told_why(cohort: list[Slide]) -> None:
    encoder, patch = ImageEncoder.create(EncoderSpec("test_resnet"), "random"), PatchSpec(size_px=32, mpp=1.0)
    with pytest.raises(InputError, match="has no image"):
        slide_features(dataclasses.replace(cohort[0], image=None), encoder, patch)
    with pytest.raises(InputError, match="pixel size"):
        slide_features(dataclasses.replace(cohort[0], mpp=None), encoder, patch)


def test_progress_counts_spots(cohort: list[Slide]) -> None:
    seen: list[tuple[str, int, int]] = []
    encoder = ImageEncoder.create(EncoderSpec("test_resnet", scales=(0.5, 1.0)), "random")
    slide_features(cohort[0], encoder, PatchSpec(size_px=32, mpp=1.0), on_progress=lambda *step: seen.append(step))
    assert {step for step, _, _ in seen} == {f"encoding {cohort[0].slide_id}"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1:] == (len(cohort[0]), len(cohort[0]))
