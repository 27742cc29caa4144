"""A model: vectors that depend on the slide alone, saved and read back as the same model."""

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from worlds import tiny_config

from mclstexp.errors import ExistsAlreadyError, InputError, MclstexpWarning, MismatchError
from mclstexp.index.encode import identity_of
from mclstexp.index.reference import Reference
from mclstexp.model.image import backbone
from mclstexp.model.image.digest import state_digest
from mclstexp.model.model import Model, SavedEncoder
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.train import train


@pytest.fixture(params=["model", "paper_model"])
def either(request: pytest.FixtureRequest) -> Model:
    """A model of each space in turn."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_vectors_depend_on_the_slide_alone(either: Model, cohort: list[Slide], monkeypatch: pytest.MonkeyPatch) -> None:
    first = [(either.embed_patches(s), either.embed_spots(s)) for s in cohort]
    monkeypatch.setitem(backbone.BATCH, "cpu", 5)
    again = [(either.embed_patches(s), either.embed_spots(s)) for s in reversed(cohort)][::-1]
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
            np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)


def test_a_patch_does_not_depend_on_its_batch(either: Model, cohort: list[Slide]) -> None:
    rows = np.array([3, 17])
    alone = either.features(cohort[0].take(rows))
    assert np.array_equal(alone, either.features(cohort[0])[rows])


def test_keys_of_a_slide_without_an_image_are_its_spots_alone(either: Model, cohort: list[Slide]) -> None:
    whole, blind = either.keys(cohort[3]), either.keys(dataclasses.replace(cohort[3], image=None))
    np.testing.assert_array_equal(blind.embedding, either.embed_spots(cohort[3]))
    assert blind.image_embedding is None
    np.testing.assert_array_equal(whole.image_embedding, either.embed_patches(cohort[3]))
    mix = either.config.key_mix
    fused = (1 - mix) * either.embed_spots(cohort[3]) + mix * either.embed_patches(cohort[3])
    np.testing.assert_allclose(whole.embedding, fused / np.linalg.norm(fused, axis=1, keepdims=True), atol=1e-6)


def test_a_saved_model_gives_the_same_vectors(either: Model, cohort: list[Slide], tmp_path: Path) -> None:
    either.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model", device="cpu", cache=False)
    assert loaded.digest == either.digest
    for method in ("embed_patches", "embed_spots"):
        assert np.array_equal(getattr(loaded, method)(cohort[3]), getattr(either, method)(cohort[3]))


def test_a_saved_model_is_the_same_model(either: Model, tmp_path: Path) -> None:
    either.save(str(tmp_path / "model"))
    loaded = Model.load(str(tmp_path / "model"), device="cpu", cache=False)
    assert (loaded.config, loaded.panel, loaded.slides) == (either.config, either.panel, either.slides)
    assert loaded.history == either.history
    assert loaded.summary() == either.summary()
    assert repr(loaded) == repr(either)
    assert (loaded.calibration is None) == (either.calibration is None)
    loaded.save(tmp_path / "again")
    for name in ("weights.safetensors", "config.json", "genes.tsv", "history.jsonl", "model-card.md"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_a_saved_model_predicts_the_same(either: Model, cohort: list[Slide], tmp_path: Path) -> None:
    either.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model", device="cpu", cache=False)
    predictions = []
    for number, model in enumerate((either, loaded)):
        reference = Reference.build(tmp_path / f"reference{number}", cohort[:3], model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MclstexpWarning)
            predictions.append(reference.query(cohort[3], device="cpu", thumbnail=False))
    first, second = predictions
    for name in ("mean", "sd", "retrieved", "lower", "upper"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert first.evidence.equals(second.evidence)
    assert (first.lower is not None) == (either.calibration is not None)


def test_the_same_training_gives_the_same_digest_and_another_another(cohort: list[Slide], model: Model) -> None:
    again = train(cohort[:3], recipe=tiny_config(), encoder_weights="random", device="cpu", cache=False)
    assert again.digest == model.digest
    with_seed = train(cohort[:3], recipe=tiny_config(seed=1), encoder_weights="random", device="cpu", cache=False)
    assert with_seed.digest != model.digest
    other_panel = Model(
        model.config, GenePanel(model.panel.symbols[::-1]), model.encoder, model.space, calibration=model.calibration
    )
    assert other_panel.digest != model.digest


def test_the_last_layer_changes_nothing_yet(cohort: list[Slide]) -> None:
    settings = {"encoder__pooling": "covariance", "encoder__last_layer": False}
    without, beside = (
        train(cohort[:3], recipe=tiny_config(**settings | more), encoder_weights="random", device="cpu", cache=False)
        for more in ({}, {"encoder__last_layer": True})
    )
    assert beside.features(cohort[3]).shape[1] > without.features(cohort[3]).shape[1]
    np.testing.assert_allclose(beside.embed_patches(cohort[3]), without.embed_patches(cohort[3]), atol=1e-5)


def test_a_model_of_before_ensembles_is_the_same_model(cohort: list[Slide], tmp_path: Path) -> None:
    """Its settings lack what came later: it computes what it did, and fits the references built with it."""
    config = tiny_config(encoder__last_layer=False, calibrate=False)
    model = train(cohort[:2], recipe=config, encoder_weights="random", device="cpu", cache=False)
    model.save(tmp_path / "model")
    head = json.loads((tmp_path / "model" / "config.json").read_text())
    for later in ("input_px", "last_layer", "dense"):
        del head["config"]["encoder"][later]
    for later in ("level_weights", "scales", "stages"):
        del head["config"]["shared"][later]
    for later in ("choose", "blend", "contrast_epochs"):
        del head["config"][later]
    (tmp_path / "model" / "config.json").write_text(json.dumps(head))
    loaded = Model.load(tmp_path / "model", device="cpu", cache=False)
    assert loaded.digest == model.digest == head["digest"]
    digest = hashlib.sha256(state_digest(loaded._state[0]).encode())
    digest.update(json.dumps(head["config"], sort_keys=True).encode())
    digest.update(loaded.panel.digest.encode())
    assert digest.hexdigest() == model.digest, "the digest as it was computed before"
    assert identity_of(loaded).settings["encoder"] == head["config"]["encoder"]
    np.testing.assert_array_equal(loaded.embed_patches(cohort[3]), model.embed_patches(cohort[3]))


def test_it_says_what_it_is(model: Model, paper_model: Model) -> None:
    assert repr(model) == "Model('default', test_resnet, 30 genes, trained on 3 slides of 3 patients)"
    assert repr(paper_model) == "Model('paper', test_resnet, 30 genes, trained on 3 slides of 3 patients)"
    one = Model(model.config, model.panel, model.encoder, model.space, slides=model.slides[:1])
    assert repr(one) == "Model('default', test_resnet, 30 genes, trained on 1 slide of 1 patient)"
    assert [slide["slide"] for slide in model.slides] == ["P1_A", "P2_A", "P3_A"]
    assert all(len(slide["image_sha256"]) == 64 for slide in model.slides)


def test_an_existing_folder_stays_without_force(model: Model, paper_model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model.save(folder)
    with pytest.raises(ExistsAlreadyError, match="--force"):
        paper_model.save(folder)
    assert Model.load(folder, device="cpu", cache=False).digest == model.digest
    paper_model.save(folder, force=True)
    assert Model.load(folder, device="cpu", cache=False).digest == paper_model.digest
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_slide_that_does_not_fit_is_told_why(model: Model, cohort: list[Slide]) -> None:
    with pytest.raises(InputError, match="P4_A has no image"):
        model.embed_patches(dataclasses.replace(cohort[3], image=None))
    with pytest.raises(InputError, match="pixel size"):
        model.embed_patches(dataclasses.replace(cohort[3], mpp=None))
    strange = GenePanel(tuple(f"STRANGE{i}" for i in range(len(cohort[3].spots.genes))))
    spots = dataclasses.replace(cohort[3].spots, genes=strange)
    with pytest.raises((InputError, MismatchError), match="genes"):
        model.embed_spots(dataclasses.replace(cohort[3], spots=spots))


def test_a_cache_that_cannot_be_used_is_said_once_and_done_without(
    model: Model, cohort: list[Slide], tmp_path: Path
) -> None:
    """A file where the folder should be."""
    model.save(tmp_path / "model")
    (tmp_path / "cache").write_text("mine")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = Model.load(tmp_path / "model", device="cpu", cache=tmp_path / "cache")
        vectors = [loaded.embed_patches(slide) for slide in cohort]
    (warning,) = [entry for entry in said if entry.category is MclstexpWarning]
    assert "cache cannot be used" in str(warning.message)
    assert "\n" not in str(warning.message)
    for slide, vector in zip(cohort, vectors, strict=True):
        np.testing.assert_array_equal(vector, model.embed_patches(slide))
    assert (tmp_path / "cache").read_text() == "mine"


def test_what_is_kept_is_taken_without_the_encoder(
    model: Model, cohort: list[Slide], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query whose features are cached builds no encoder, which takes longer than all the rest."""
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model", cache=tmp_path / "cache")
    encoded = loaded.features(cohort[0])
    again = Model.load(tmp_path / "model", cache=tmp_path / "cache")
    assert SavedEncoder.digests(again._given) == model.encoder.digests()
    monkeypatch.setattr(SavedEncoder, "built", lambda self: pytest.fail("the encoder was built"))
    assert np.array_equal(again.features(cohort[0]), encoded)
    assert again.digest == model.digest
