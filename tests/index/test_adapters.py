"""Features that other tools computed: those of the reference's own encoder are taken, all others are refused."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import command, error_of, usage_of
from references import quietly, without_counts
from worlds import TINY, tiny_slides

from mclstexp.config import EncoderSpec
from mclstexp.data.tile_features import TileFeatures
from mclstexp.errors import InputError, MclstexpWarning, MismatchError
from mclstexp.index.adapters import FeatureModel, PatchEncoder
from mclstexp.index.reference import Reference
from mclstexp.model.image.given import agreement, refuse_unusual
from mclstexp.slide import Slide
from mclstexp.train import train

SIDE = 32.0


@dataclasses.dataclass(frozen=True)
class Place:
    """A reference whose encoder others can run, a slide that is new to it, and its tiles as they would encode them."""

    reference: Reference
    slide: Slide
    tiles: TileFeatures


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    slides = tiny_slides(folder, 3)
    last = EncoderSpec(name="test_resnet", pooling="last")
    retrieval = dataclasses.replace(TINY.retrieval, k=20)
    config = dataclasses.replace(TINY, encoder=last, retrieval=retrieval, calibrate=False)
    model = train(slides[:2], recipe=config, encoder_weights="random", n_genes=30, device="cpu", cache=False)
    reference = Reference.build(folder / "reference", slides[:2], model)
    slide = without_counts(slides[2], name=slides[2].slide_id)
    values = model.features(slide)
    return Place(reference, slide, TileFeatures(values, slide.spots.xy_px - SIDE / 2, SIDE, name="tiles.h5"))


def other(tiles: TileFeatures, **changes: Any) -> TileFeatures:
    return dataclasses.replace(tiles, **changes)


def test_given_features_answer_as_encoded_ones(place: Place) -> None:
    encoded = quietly(place.reference, place.slide)
    with pytest.warns(MclstexpWarning, match=r"tiles\.h5 agree by 1\.00 of 1 with 16 tiles encoded anew"):
        given = place.reference.query(place.tiles.slide(place.slide.image.path), features=place.tiles)
    np.testing.assert_allclose(given.mean, encoded.mean, atol=1e-5)
    np.testing.assert_array_equal(given.evidence["row_id"], encoded.evidence["row_id"])
    assert any("agree by 1.00" in note for note in given.notes)


def test_features_resampled_by_another_library_are_the_same(place: Place) -> None:
    """A little noise is what another resize leaves; it is no other encoder."""
    rng = np.random.default_rng(0)
    noisy = place.tiles.values + 0.2 * place.tiles.values.std(axis=0) * rng.normal(size=place.tiles.values.shape)
    quietly(place.reference, place.tiles.slide(place.slide.image.path), features=other(place.tiles, values=noisy))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (lambda t: {"values": t.values[::-1]}, "is not what the model's encoder test_resnet makes of the same tiles"),
        (lambda t: {"values": t.values[:, ::-1]}, "0.8 of 1 is needed (16 tiles encoded anew)"),
        (lambda t: {"values": t.values[:, :5]}, "has 5 features a tile, the model's encoder test_resnet makes 96"),
        (lambda t: {"tile_px": 64}, "tiles of 64 px (64 um), the model's patches are 32 px (32 um)"),
        (lambda t: {"weights_sha256": "ab" * 32}, "is of weights abababababab, the model's encoder test_resnet has "),
    ],
)
def test_features_of_another_encoder_are_refused(place: Place, changes: Any, says: str) -> None:
    given = other(place.tiles, **changes(place.tiles))
    with pytest.raises(MismatchError, match=re.escape(says)):
        quietly(place.reference, place.slide, features=given)


def test_without_an_image_the_name_has_to_agree(place: Place) -> None:
    slide = place.tiles.slide(mpp=1.0)
    for name, says in (("", "Nothing says which encoder made tiles.h5"), ("uni_v1", "encoder uni_v1, the model's is")):
        with pytest.raises(MismatchError, match=says):
            quietly(place.reference, slide, features=other(place.tiles, encoder=name))
    named = quietly(place.reference, slide, features=other(place.tiles, encoder="timm/test_resnet.r160_in1k"))
    assert any("by its name alone" in note for note in named.notes)


@pytest.mark.parametrize("usual", [{"pooling": "covariance"}, {"views": 2}, {"scales": (0.5, 1.0)}])
def test_what_no_other_tool_computes_is_refused_with_the_settings_that_allow_it(usual: dict[str, Any]) -> None:
    plain = EncoderSpec(name="test_resnet", pooling="last")
    refuse_unusual(plain)
    with pytest.raises(MismatchError, match=r"pooling over \d views at \d fields .* --set encoder.pooling=last"):
        refuse_unusual(dataclasses.replace(plain, **usual))


def test_the_number_of_tiles_has_to_be_the_slides(place: Place) -> None:
    with pytest.raises(MismatchError, match=r"tiles.h5 has 36 tiles, the slide 30 spots"):
        quietly(place.reference, place.slide.take(np.arange(30)), features=place.tiles)


def test_agreement_is_of_the_same_tiles_only() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=(16, 50)).astype(np.float32) + 100  # what all tiles share tells nothing
    assert agreement(own, own) == pytest.approx(1)
    assert agreement(rng.normal(size=(16, 50)).astype(np.float32) + 100, own) < 0.5
    assert agreement(np.zeros_like(own), own) < 0.5
    assert agreement(own[:1], own[:1]) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::mclstexp.errors.MclstexpWarning")
def test_a_model_as_lazyslide_asks_one(place: Place) -> None:
    """All tiles at once with their corners, a vector a gene; what `tl.feature_prediction` does with a model."""
    wsi = SimpleNamespace(
        shapes={"tiles": None},
        tile_spec=lambda key: SimpleNamespace(base_width=32),
        properties=SimpleNamespace(mpp=1.0),
        reader=SimpleNamespace(file=str(place.slide.image.path)),
    )
    gene = place.reference.panel.symbols[3]
    model = FeatureModel.for_wsi(place.reference, wsi, genes=[gene])
    assert (model.needs_coords, model.whole_slide, model.features_model_name) == (True, True, PatchEncoder.name)
    assert model.to("cuda") is model
    assert model.get_transform() is None
    features = torch.from_numpy(place.tiles.values)
    answer = model.predict(features, place.tiles.corner_px)
    assert list(answer) == [gene]
    expected = quietly(place.reference, place.slide, genes=[gene])
    np.testing.assert_allclose(answer[gene], expected.mean[:, 0], atol=1e-5)
    assert model.prediction.evidence.num_rows == 36 * 20
    with pytest.raises(InputError, match="give coords"):
        model.predict(features)
    beyond = np.vstack([place.tiles.corner_px, [[390.0, 10.0]]])
    with pytest.warns(MclstexpWarning, match="1 of 37 tiles have their centre outside the image: NaN for them"):
        longer = model.predict(np.vstack([place.tiles.values, place.tiles.values[:1]]), beyond)
    np.testing.assert_array_equal(longer[gene][:-1], answer[gene])
    assert np.isnan(longer[gene][-1])
    wsi.shapes = {}
    with pytest.raises(InputError, match="has no tiles 'tiles'"):
        FeatureModel.for_wsi(place.reference, wsi)


def test_lazyslides_own_protocol(place: Place) -> None:
    base = pytest.importorskip("lazyslide_models.base", reason="LazySlide is not installed")
    assert isinstance(FeatureModel(place.reference, tile_px=SIDE), base.FeaturePredictionModelProtocol)
    assert isinstance(PatchEncoder(place.reference.model), base.ImageModelProtocol)


@pytest.mark.filterwarnings("ignore::mclstexp.errors.MclstexpWarning")
def test_the_encoder_as_tiatoolbox_runs_it(place: Place) -> None:
    """Batches of uint8 patches; the weights are the model's own."""
    reference = place.reference
    encoder = PatchEncoder(reference.model)
    assert (encoder.patch_px, encoder.mpp) == (32, 1.0)
    x, y = (place.slide.spots.xy_px - SIDE / 2).T.astype(int)
    patches = np.stack([place.slide.image.read_region(a, b, 32, 32) for a, b in zip(x, y, strict=True)])
    batches = [encoder.infer_batch(encoder, torch.from_numpy(patches[i : i + 10]))[0] for i in range(0, 36, 10)]
    model = FeatureModel(reference, mpp=1.0, tile_px=SIDE, weights_sha256=encoder.weights_sha256)
    corners = np.stack([x, y, x + 32, y + 32], axis=1)
    answer = model.predict_slide(np.concatenate(batches), corners)
    np.testing.assert_allclose(answer.mean, quietly(reference, place.slide).mean, atol=1e-4)


def test_the_command(place: Place, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["features"], file["coords"] = place.tiles.values, place.tiles.corner_px.astype(int)
        file["coords"].attrs["patch_size_level0"] = 32
    run, image = command(tmp_path / "cache"), place.slide.image.path
    words = ("query", image, "--features", tmp_path / "s.h5", "-o", tmp_path / "p.h5ad", "--device", "cpu")
    done = run(*words, "-r", place.reference.path)
    assert "agree by 1.00 of 1" in done.stderr
    twice = run("query", image, tmp_path / "c.csv", *words[2:], "-r", place.reference.path, "--force", ok=False)
    assert "the tiles' own coordinates are taken" in usage_of(twice)
    refused = run(*words, "--force", "--mpp", "0.5", "--mpp-from", "given", "-r", place.reference.path, ok=False)
    assert "tiles of 32 px (16 um), the model's patches are 64 px (32 um)" in error_of(refused)
