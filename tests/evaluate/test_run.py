"""The evaluation loop: what a perfect, a random and a leaking set-up must give."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from worlds import Picture, Told, noise, summaries_by_method

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import expression_for
from mclstexp.data.genes.panel import select_panel
from mclstexp.errors import InputError, MismatchError
from mclstexp.evaluate.baselines import LinearProbe, RandomReferences, TrainingMean, baseline_methods
from mclstexp.evaluate.folds import SplitSpec
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.run import run_evaluation

SCALE = Normalisation()


def test_a_perfect_method_is_perfect(result):
    values = summaries_by_method(result)["perfect"]
    for key in ("pcc", "pcc_heg", "pcc_hvg", "pcc_hpg", "ssim", "coverage", "pooled_pcc", "pcc_set:few"):
        assert values[key].mean == pytest.approx(1.0), key
    for key in ("mse", "mae", "rvd"):
        assert values[key].mean == pytest.approx(0.0), key
    assert values["interval_width"].mean == pytest.approx(2.0, abs=1e-5)
    assert values["familiarity"].mean == pytest.approx(0.5)
    ari = np.mean([ari for ari, _ in result.domains_of_truth.values()])
    assert values["ari"].mean == pytest.approx(ari)


def test_genes_of_a_marker_set_that_the_panel_lacks_are_named(result):
    (note,) = [text for text in result.notes if text.startswith("Marker set few")]
    assert note.endswith("of 3 genes are in no fold's panel and not scored: absent.")


def test_noise_and_silence_are_worth_nothing(result):
    values = summaries_by_method(result)
    assert abs(values["noise"]["pcc"].mean) < 0.03
    assert abs(values["random references"]["pcc"].mean) < 0.05
    assert values["training mean"]["pcc"].mean == 0
    assert values["training mean"]["pcc_nan_dropped"].mean is None
    assert values["training mean"]["rvd"].mean == pytest.approx(1.0, abs=1e-6)
    # 50 genes picked by their result on the test slide itself: luck shows as accuracy
    assert values["noise"]["pcc_hpg"].mean > 0.02


def test_what_depends_on_the_features_is_found(result):
    values = summaries_by_method(result)
    assert values["linear probe"]["pcc"].mean > 0.5
    assert values["linear probe"]["pcc"].mean > values["image retrieval"]["pcc"].mean > 0.2
    assert values["linear probe"]["mse"].mean < values["training mean"]["mse"].mean


def test_the_table_can_be_recomputed_from_scratch(world, result):
    """The linear probe's PCC, MSE and HEG of one fold, by scikit-learn and scipy alone."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    fold = next(f for f in result.folds if f["name"] == "C")
    assert fold["train"] == ["A1", "A2", "B1", "B2"]
    score = next(s for s in result.scores if s.slide_id == "C1" and s.method == "linear probe")
    panel = score.genes
    probe = LinearProbe(world.read, SCALE)
    probe.fit(world.slides[:4], panel, seed=0)
    x = np.concatenate([world.features[s] for s in fold["train"]]).astype(np.float32)[:, :6].astype(float)
    y = np.concatenate([expression_for(s.spots, panel, SCALE)[0] for s in world.slides[:4]])
    own_mean = np.repeat([world.features[s][:, :6].mean(axis=0) for s in fold["train"]], len(x) // 4, axis=0)
    mean, sd = x.mean(axis=0), np.sqrt(((x - own_mean) ** 2).mean(axis=0))
    z = (x - mean) / sd
    model = linear_model.Ridge(alpha=probe.strength * (z**2).sum() / len(z)).fit(z, y)
    test = world.features["C1"].astype(np.float32)[:, :6].astype(float)
    slope = probe.slope
    predicted = y.mean(axis=0) + slope * (model.predict((test - mean) / sd) - y.mean(axis=0))
    truth = expression_for(world.slides[4].spots, panel, SCALE)[0].astype(float)
    r = np.array([stats.pearsonr(truth[:, g], predicted[:, g]).statistic for g in range(len(panel))])
    assert score.values["pcc"] == pytest.approx(r.mean(), abs=1e-3)  # bounds touch a few spots
    assert score.values["mse"] == pytest.approx(((truth - predicted) ** 2).mean(), rel=3e-3)
    assert score.values["pcc_heg"] == pytest.approx(r[np.argsort(-truth.mean(axis=0))[:50]].mean(), abs=1e-3)


def test_methods_see_neither_counts_nor_labels_of_held_out_slides(world):
    told = Told(noise)
    run_evaluation(world.slides, [told], EvaluationProtocol(n_genes=20))
    assert len(told.seen) == 5
    for slide in told.seen:
        assert slide.spots.counts is None
        assert slide.spots.genes is None
        assert slide.spots.labels is None
        assert slide.image is not None


def test_the_panel_comes_from_the_training_side_alone(world):
    result = run_evaluation(world.slides, [Told(noise)], EvaluationProtocol(n_genes=20))
    panels = {s.fold: s.genes.symbols for s in result.scores}
    for patient, symbols in panels.items():
        train = [s for s in world.slides if s.patient != patient]
        assert symbols == select_panel(train, n_top=20).symbols
    assert len(set(panels.values())) > 1


def test_counts_alone_train_only_those_that_ask_for_it(world):
    slides = [*world.slides[:4], replace(world.slides[4], image=None)]
    plain, hungry = Told(noise, "plain"), Told(noise, "hungry", uses_counts_only=True)
    result = run_evaluation(slides, [plain, hungry], EvaluationProtocol(n_genes=20))
    assert [f["test"] for f in result.folds] == [["A1", "A2"], ["B1", "B2"]]
    assert [ids for ids, _, _ in plain.fits] == [["B1", "B2"], ["A1", "A2"]]
    assert [ids for ids, _, _ in hungry.fits] == [["B1", "B2", "C1"], ["A1", "A2", "C1"]]
    assert any("1 of 5 slides have no image" in note for note in result.notes)


def test_a_leaking_setup_is_refused_before_anything_is_fitted(world):
    told = Told(noise)
    copy = replace(world.slides[0], slide_id="D1", patient="D", image=Picture("D1.absent"))
    with pytest.raises(InputError, match="very same counts"):
        run_evaluation([*world.slides, copy], [told], EvaluationProtocol())
    with pytest.raises(InputError, match="both of patient 'A'"):
        run_evaluation(world.slides, [told], EvaluationProtocol(split=SplitSpec(train=("A1",), test=("A2",))))
    assert told.fits == []


def test_another_scale_is_refused(world):
    told = Told(noise, normalisation=Normalisation(log="log10"))
    with pytest.raises(MismatchError, match=r"told.*log10.*natural"):
        run_evaluation(world.slides, [told], EvaluationProtocol())


def test_the_same_evaluation_twice_is_the_same(world):
    protocol = EvaluationProtocol(seeds=(0, 1), n_genes=30)
    runs = [
        json.dumps(run_evaluation(world.slides, baseline_methods(world.read, SCALE, k=5), protocol).to_json())
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_progress_counts_every_fold_method_and_seed(world):
    calls = []
    methods = [TrainingMean(SCALE), RandomReferences(SCALE, k=3)]
    protocol = EvaluationProtocol(seeds=(0, 1), n_genes=10)
    run_evaluation(world.slides, methods, protocol, on_progress=lambda *report: calls.append(report))
    assert calls == [("folds x methods", i, 9) for i in range(1, 10)]
