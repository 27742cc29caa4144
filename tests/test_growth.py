"""The benchmark of growing data: its simulated cohorts, its contenders, and its table."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mclstexp.config import EncoderSpec
from mclstexp.data.genes.expression import expression_for
from mclstexp.model.image.encoder import ImageEncoder

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def small(script):
    return script("simulated.features").simulate(2, 5, 1, 300, 4, 40, 0)


def test_a_cohort_is_a_function_of_its_arguments(script, small):
    simulate = script("simulated.features").simulate
    again, other = simulate(2, 5, 1, 300, 4, 40, 0), simulate(2, 5, 1, 300, 4, 40, 1)
    for one, same, different in zip(
        (*small.train, *small.test), (*again.train, *again.test), (*other.train, *other.test), strict=True
    ):
        np.testing.assert_array_equal(one.features, same.features)
        np.testing.assert_array_equal(one.expression, same.expression)
        assert not np.array_equal(one.features[:8], different.features[:8])
    assert sum(len(slide.features) for slide in small.train) == 300
    assert not {slide.patient for slide in small.train} & {slide.patient for slide in small.test}
    for slide in (*small.train, *small.test):
        assert slide.features.dtype == slide.expression.dtype == np.float32
        assert slide.features.shape[1] == small.layout.width
        assert np.isfinite(slide.features).all()


@pytest.mark.parametrize(("tissues", "patients", "slides"), [(1, 2, 1), (3, 7, 2), (16, 4, 4), (9, 2, 3), (12, 12, 1)])
def test_test_slides_are_of_tissues_that_training_knows(script, tissues, patients, slides):
    train, test = script("simulated.nature").places(tissues, patients, slides, 1000, 0)
    assert len(train) == patients * slides
    assert {place.tissue for place in test} <= {place.tissue for place in train}
    assert len({place.tissue for place in train}) == min(tissues, patients * slides)
    assert min(place.patient for place in test) == patients
    assert min(place.spots for place in (*train, *test)) >= 8
    if patients >= tissues:
        assert all(one.tissue == other.tissue for one in train for other in train if one.patient == other.patient)


def test_too_few_spots_for_the_slides_are_refused(script):
    with pytest.raises(ValueError, match="30 spots are too few for 8 slides"):
        script("simulated.nature").places(2, 8, 1, 30, 0)


def test_a_field_of_view_is_the_gaussian_mean_of_the_field(script):
    nature = script("simulated.nature")
    n, step = 160, 20.0
    xy = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2) * step
    fields = nature.smooth_fields(xy, np.array([150.0, 500.0]), (0.0, 100.0), np.random.default_rng(0))
    sharp, mean = fields.reshape(2, n, n, 2)
    expected = ndimage.gaussian_filter(sharp, (5, 5, 0), truncate=6)
    inside = slice(40, -40)
    np.testing.assert_allclose(mean[inside, inside], expected[inside, inside], atol=0.01)
    rng = np.random.default_rng(1)
    drawn = np.concatenate([nature.smooth_fields(xy[:1], np.full(50, 300.0), (0.0,), rng)[0, 0] for _ in range(60)])
    assert drawn.std() == pytest.approx(1, abs=0.05)


def test_only_visible_programmes_are_seen(script):
    nature, features = script("simulated.nature"), script("simulated.features")
    world = nature.World(programmes=6, visible=0.5, noise=0.0, nuisances=1)
    life = nature.Nature(world, 1, 10, 0)
    view = features._View(life, np.random.default_rng(0))
    base = np.zeros((3, 5, 7), dtype=np.float32)

    def shown(programme):
        fields = base.copy()
        fields[:, :, programme] = 1
        return view.features(fields, np.random.default_rng(1), np.random.default_rng(2))

    plain = shown(slice(0, 0))
    seen = [programme for programme in range(6) if not np.array_equal(shown(programme), plain)]
    assert seen == life.visible.tolist()
    assert len(seen) == 3


def test_baselines_see_the_features_block_by_block(script, small):
    contenders = script("_contenders")
    config = contenders.default_config(small)
    features = np.concatenate([slide.features for slide in small.train]).astype(np.float64)
    values = np.concatenate([slide.expression for slide in small.train])
    mean, scale = features.mean(axis=0), np.sqrt(small.layout.column_weights()) / features.std(axis=0)
    keys, query = (features - mean) * scale, (small.test[0].features - mean) * scale
    cosine = (query @ keys.T) / np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(keys, axis=1))
    nearest = np.argsort(-cosine, axis=1)[:, : contenders.NEIGHBOURS]
    answer = contenders.image_retrieval(small, config)
    np.testing.assert_allclose(answer.means[0], values[nearest].mean(axis=1), atol=0.02)
    assert answer.n_effective == 200
    probe = contenders.scores(small, contenders.linear_probe(small, config))
    assert probe["pcc"] > 0.3
    assert probe["mse"] < contenders.scores(small, contenders.training_mean(small, config))["mse"]


def test_slides_of_arrays_hold_the_counts(script, small):
    contenders = script("_contenders")
    for arrays in small.train:
        slide = contenders._slide(arrays, contenders.panel_of(small))
        expression, measured = expression_for(slide.spots, contenders.panel_of(small), contenders.SCALE)
        np.testing.assert_allclose(expression, arrays.expression, atol=1e-4)
        np.testing.assert_array_equal(slide.spots.counts.sum(axis=1).A1, arrays.depth)
        assert measured.all()
        pitch = np.linalg.norm(slide.spots.xy_px[1] - slide.spots.xy_px[0])
        grid = np.stack([slide.spots.array_col, slide.spots.array_row], axis=1)
        np.testing.assert_allclose(grid * pitch, arrays.xy_um)


def test_scores_of_the_truth_and_of_levels_alone(script, small):
    contenders = script("_contenders")
    truth = [slide.expression for slide in small.test]
    perfect = contenders.scores(small, contenders.Answer(truth, 3.0))
    assert perfect["pcc"] == pytest.approx(1)
    assert perfect["pcc_pooled"] == pytest.approx(1)
    assert perfect["mse"] == 0
    assert perfect["n_effective"] == 3
    levels = [np.broadcast_to(values.mean(axis=0), values.shape) for values in truth]
    flat = contenders.scores(small, contenders.Answer(levels))
    assert flat["pcc"] == pytest.approx(0)
    assert flat["pcc_pooled"] > 0.1
    assert flat["mse"] == pytest.approx(np.mean([values.var(axis=0).mean() for values in truth]), rel=1e-4)


@pytest.mark.parametrize("size", ["3x4x5", "0x1x1x10", "ax1x1x10", "1x1x1x-5"])
def test_a_size_that_is_none_is_refused(script, size):
    with pytest.raises(SystemExit, match=f"--sizes {size}: tissues x patients"):
        script("growth").size_of(size)


def test_every_method_stands_in_the_table(script, tmp_path, monkeypatch, capsys):
    growth = script("growth")
    monkeypatch.setattr(growth, "apart", growth.measured)
    out = tmp_path / "growth.json"
    settings = ["--set", "retrieval.k=50", "--sweep", "shared.components=2,4", "--paper-set", "optim.epochs=1"]
    arguments = ["--sizes", "1x4x1x160", "--worlds", "few", "--genes", "30", *settings, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["growth.py", *arguments])
    growth.main()
    rows = {(row["method"], *row["settings"]): row for row in json.loads(out.read_text())["rows"]}
    names = [("default", "retrieval.k=50", f"shared.components={n}") for n in (2, 4)]
    assert list(rows) == [
        ("training mean",),
        ("image retrieval",),
        ("linear probe",),
        ("paper", "optim.epochs=1"),
        *names,
    ]
    assert rows["training mean",]["pcc"] == 0
    for name in names:
        assert rows[name]["pcc"] > 0.1
        assert rows[name]["mse"] < rows["training mean",]["mse"]
        assert 1 <= rows[name]["n_effective"] <= 50
    assert rows["paper", "optim.epochs=1"]["chosen"] == {"epochs": 1}
    printed = capsys.readouterr().out
    assert "features, few, 1x4x1x160" in printed
    assert len(printed.splitlines()) == 3 + len(rows)


def test_pictures_follow_their_properties(script):
    nature, pictures = script("simulated.nature"), script("simulated.pictures")
    nuisances = np.zeros((12, 12, 2), dtype=np.float32)

    def drawn(**changed):
        properties = {name: np.full((12, 12), 0.5, dtype=np.float32) for name in pictures.PROPERTIES}
        properties |= {name: np.full((12, 12), value, dtype=np.float32) for name, value in changed.items()}
        painter = pictures._Painter(properties, nuisances, np.random.default_rng(0))
        return painter.paint(pictures.STAINS.copy()).astype(float)

    plain = drawn()
    assert plain.shape == (275, 275, 3)
    assert drawn(nuclei=0.9)[..., 0].mean() < plain[..., 0].mean() - 5
    assert (drawn(fat=1.0) > 225).all(axis=-1).mean() > (plain > 225).all(axis=-1).mean() + 0.1
    assert drawn(eosin=0.9)[..., 1].mean() < plain[..., 1].mean() - 5
    for name in pictures.PROPERTIES:
        assert not np.array_equal(drawn(**{name: 0.9}), plain), name
    look = pictures.Look(nature.Nature(nature.WORLDS["linear"], 2, 10, 0), 2)
    visible = nature.Nature(nature.WORLDS["linear"], 2, 10, 0).visible
    assert np.flatnonzero(look.weights.any(axis=1)).tolist() == visible.tolist()


def test_pictures_are_encoded_once(script, tmp_path, monkeypatch):
    nature, pictures = script("simulated.nature"), script("simulated.pictures")
    sides = [nature.Place(0, 0, 0, 4)], [nature.Place(2, 0, 1, 4)]
    monkeypatch.setattr(pictures, "places", lambda *amounts: sides)
    encoder = ImageEncoder.create(EncoderSpec("test_resnet", "stages"), "random", seed=0)
    first = pictures.simulate_pictures(2, 2, 1, 8, 4, 20, 0, encoder=encoder, cache=tmp_path)
    assert first.layout.width == first.train[0].features.shape[1]
    assert len(list(tmp_path.iterdir())) == 2
    encoder.features = None  # anything encoded again would fail
    again = pictures.simulate_pictures(2, 2, 1, 8, 4, 20, 0, encoder=encoder, cache=tmp_path)
    for one, same in zip((*first.train, *first.test), (*again.train, *again.test), strict=True):
        np.testing.assert_array_equal(one.features, same.features)
        np.testing.assert_array_equal(one.expression, same.expression)
    assert not np.array_equal(first.train[0].features, first.test[0].features)
