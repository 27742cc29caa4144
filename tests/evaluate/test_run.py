"""The evaluation loop and the baselines: what a perfect, a random and a leaking set-up must give."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse, stats

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import expression_for
from mclstexp.data.genes.panel import select_panel
from mclstexp.errors import ExistsAlreadyError, InputError, MismatchError
from mclstexp.evaluate.baselines import (
    RIDGE_STRENGTHS,
    ImageRetrieval,
    LinearProbe,
    RandomReferences,
    Ridge,
    TrainingMean,
    TrainingSide,
    baseline_methods,
    choose_strength,
    mean_of_rows,
    spatial_blocks,
)
from mclstexp.evaluate.folds import SplitSpec
from mclstexp.evaluate.paper import PAPER_SECTIONS, describe_protocol, paper_protocol, paper_slides
from mclstexp.evaluate.protocol import EvaluationProtocol, panel_slides
from mclstexp.evaluate.run import run_evaluation
from mclstexp.evaluate.scores import MethodPrediction
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide, SpotTable

SCALE = Normalisation()
GENES = GenePanel(tuple(f"G{i}" for i in range(70)))
SIDE = 7


class Picture:
    """Stands for an image; its features are given below."""

    def __init__(self, name):
        self.path = Path(f"{name}.absent")


class World:
    """Slides whose counts follow their features, as noisy as told."""

    def __init__(self, names=("A1", "A2", "B1", "B2", "C1"), noise=0.0, genes=GENES):
        rng = np.random.default_rng(7)
        loadings = rng.normal(size=(4, len(genes))) * 0.6
        self.features = {}
        self.slides = []
        for name in names:
            row, col = np.indices((SIDE, SIDE)).reshape(2, -1)
            x = rng.normal(size=(SIDE**2, 4))
            self.features[name] = np.hstack([x, rng.normal(size=(SIDE**2, 2)), np.ones((SIDE**2, 1))])
            rate = np.exp(3 + (x + noise * rng.normal(size=x.shape)) @ loadings)
            labels = np.where(x[:, 0] > 0, "high", "low")
            spots = SpotTable(
                spot_ids=np.array([f"{r}x{c}" for r, c in zip(row, col, strict=True)]),
                xy_px=np.stack([col, row], axis=1) * 50.0,
                array_row=row,
                array_col=col,
                counts=sparse.csr_matrix(rng.poisson(rate)),
                genes=genes,
                labels=labels,
            )
            self.slides.append(Slide(name, name[0], "cohort", spots, image=Picture(name)))

    def read(self, slide):
        return self.features[slide.slide_id].astype(np.float32)


class Told:
    """Predicts what a function says; records what it was given."""

    def __init__(self, answer, name="told", *, deterministic=True, uses_counts_only=False, normalisation=SCALE):
        self.answer, self.name, self.deterministic = answer, name, deterministic
        self.uses_counts_only, self.normalisation = uses_counts_only, normalisation
        self.fits, self.seen = [], []

    def fit(self, train, panel, *, seed):
        self.panel, self.seed = panel, seed
        self.fits.append(([s.slide_id for s in train], len(panel), seed))

    def predict(self, slide):
        self.seen.append(slide)
        return self.answer(slide, self.panel, self.seed)


def oracle(world):
    by_id = {slide.slide_id: slide for slide in world.slides}

    def answer(slide, panel, seed):
        truth, _ = expression_for(by_id[slide.slide_id].spots, panel, SCALE)
        return MethodPrediction(truth, truth - 1, truth + 1, np.full(len(slide), 0.5, np.float32))

    return answer


def noise(slide, panel, seed):
    return MethodPrediction(np.random.default_rng(seed).normal(size=(len(slide), len(panel))).astype(np.float32))


@pytest.fixture(scope="module")
def world():
    return World(noise=0.3)


@pytest.fixture(scope="module")
def result(world):
    methods = [
        *baseline_methods(world.read, SCALE, k=10),
        Told(oracle(world), "perfect"),
        Told(noise, "noise", deterministic=False),
    ]
    protocol = EvaluationProtocol(seeds=(0, 1, 2), n_genes=60, markers={"few": ("G1", "G2", "absent")})
    return run_evaluation(world.slides, methods, protocol)


def overall(result):
    return {summary.method: summary.values for summary in result.summaries}


def test_a_perfect_method_is_perfect(result):
    values = overall(result)["perfect"]
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


def test_domains_are_compared_with_the_labels_and_drawn(world, result):
    from mclstexp.evaluate.report import domains_figure
    from mclstexp.metrics import domain_agreement

    scores = {(s.method, s.slide_id): s for s in result.scores if s.seed in (None, 0)}
    for slide in world.slides:
        mine = scores["perfect", slide.slide_id]
        panel = GenePanel(mine.symbols)
        truth, _ = expression_for(slide.spots, panel, SCALE)
        assert (mine.values["ari"], mine.values["nmi"]) == domain_agreement(truth, slide.spots.labels)
        assert scores["training mean", slide.slide_id].values["ari"] == 0
    assert [m.slide_id for m in result.domain_maps] == ["A1", "A2", "B1", "B2"]
    np.testing.assert_array_equal(result.domain_maps[0].clusters["perfect"], result.domain_maps[0].clusters["measured"])
    assert any(
        line.startswith("labels of A1, A2, B1, B2, C1 (ARI, NMI): the slide's own") for line in result.describe()
    )
    figure = domains_figure(result.domain_maps)
    assert len(figure.axes) == 4 * (2 + len(result.methods))
    assert domains_figure([]) is None


def test_unlabelled_spots_and_slides_take_no_part_in_domains(world):
    labels = world.slides[0].spots.labels.copy()
    labels[::3] = ""
    slides = [
        replace(s, spots=replace(s.spots, labels=labels if s.slide_id == "A1" else None), extra={"labels": "made up"})
        for s in world.slides[:3]
    ]
    result = run_evaluation(slides, [Told(oracle(world))], EvaluationProtocol(n_genes=60))
    values = {s.slide_id: s.values for s in result.scores}
    assert values["A1"]["ari"] is not None
    assert (values["A2"]["ari"], values["B1"]["nmi"]) == (None, None)
    (drawn,) = result.domain_maps
    assert (drawn.clusters["told"] == -1).tolist() == (labels == "").tolist()
    assert result.to_json()["domains_of_truth"]["A1"]["labels"] == "made up"


def test_noise_and_silence_are_worth_nothing(result):
    values = overall(result)
    assert abs(values["noise"]["pcc"].mean) < 0.03
    assert abs(values["random references"]["pcc"].mean) < 0.05
    assert values["training mean"]["pcc"].mean == 0
    assert values["training mean"]["pcc_nan_dropped"].mean is None
    assert values["training mean"]["rvd"].mean == pytest.approx(1.0, abs=1e-6)
    # 50 genes picked by their result on the test slide itself: luck shows as accuracy
    assert values["noise"]["pcc_hpg"].mean > 0.02


def test_what_depends_on_the_features_is_found(result):
    values = overall(result)
    assert values["linear probe"]["pcc"].mean > 0.5
    assert values["linear probe"]["pcc"].mean > values["image retrieval"]["pcc"].mean > 0.2
    assert values["linear probe"]["mse"].mean < values["training mean"]["mse"].mean


def test_seeds_give_a_spread_and_deterministic_methods_run_once(result):
    seeds = {(s.method, s.seed) for s in result.scores}
    assert {seed for method, seed in seeds if method == "noise"} == {0, 1, 2}
    assert {seed for method, seed in seeds if method == "linear probe"} == {None}
    noisy = [s for s in result.scores if s.method == "noise"]
    per_seed = [np.mean([s.values["pcc"] for s in noisy if s.seed == seed]) for seed in (0, 1, 2)]
    spread = overall(result)["noise"]["pcc"]
    assert spread.mean == pytest.approx(np.mean(per_seed))
    assert spread.sd_seeds == pytest.approx(np.std(per_seed, ddof=1))
    assert overall(result)["linear probe"]["pcc"].sd_seeds is None


def test_the_table_can_be_recomputed_from_scratch(world, result):
    """The linear probe's PCC, MSE and HEG of one fold, by scikit-learn and scipy alone."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    fold = next(f for f in result.folds if f["name"] == "C")
    assert fold["train"] == ["A1", "A2", "B1", "B2"]
    score = next(s for s in result.scores if s.slide_id == "C1" and s.method == "linear probe")
    panel = GenePanel(score.symbols)
    probe = LinearProbe(world.read, SCALE)
    probe.fit(world.slides[:4], panel, seed=0)
    x = np.concatenate([world.features[s] for s in fold["train"]]).astype(np.float32)[:, :6].astype(float)
    y = np.concatenate([expression_for(s.spots, panel, SCALE)[0] for s in world.slides[:4]])
    mean, sd = x.mean(axis=0), x.std(axis=0)
    model = linear_model.Ridge(alpha=probe.strength).fit((x - mean) / sd, y)
    test = world.features["C1"].astype(np.float32)[:, :6].astype(float)
    predicted = model.predict((test - mean) / sd)
    truth = expression_for(world.slides[4].spots, panel, SCALE)[0].astype(float)
    r = np.array([stats.pearsonr(truth[:, g], predicted[:, g]).statistic for g in range(len(panel))])
    assert score.values["pcc"] == pytest.approx(r.mean(), abs=1e-5)
    assert score.values["mse"] == pytest.approx(((truth - predicted) ** 2).mean(), rel=1e-4)
    assert score.values["pcc_heg"] == pytest.approx(r[np.argsort(-truth.mean(axis=0))[:50]].mean(), abs=1e-5)


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
    panels = {s.fold: s.symbols for s in result.scores}
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


def test_by_slide_shouts_in_every_output(world, tmp_path):
    from mclstexp.evaluate.report import write_report

    protocol = EvaluationProtocol(split=SplitSpec(by="slide"), n_genes=20)
    result = run_evaluation(world.slides, [TrainingMean(SCALE)], protocol)
    assert any("LEAKAGE BY DESIGN" in text for text in result.to_json()["warnings"])
    assert "LEAKAGE BY DESIGN" in write_report(result, tmp_path / "out").read_text()


def test_a_leaking_setup_is_refused_before_anything_is_fitted(world):
    told = Told(noise)
    copy = replace(world.slides[0], slide_id="D1", patient="D", image=Picture("D1"))
    with pytest.raises(InputError, match="very same counts"):
        run_evaluation([*world.slides, copy], [told], EvaluationProtocol())
    with pytest.raises(InputError, match="both of patient 'A'"):
        run_evaluation(world.slides, [told], EvaluationProtocol(split=SplitSpec(train=("A1",), test=("A2",))))
    assert told.fits == []


def test_a_given_panel_is_reported_as_perhaps_chosen_on_the_test_slides(world):
    result = run_evaluation(world.slides, [TrainingMean(SCALE)], EvaluationProtocol(genes=("G3", "G1", "G99")))
    assert result.scores[0].symbols == ("G3", "G1")
    assert any("may have seen the test slides" in text for text in result.warnings)
    assert any("G99" in text for text in result.notes)


@pytest.mark.parametrize(
    ("trained_on", "says"),
    [
        ([("A1", "A"), ("Z1", "Z")], "LEAKAGE: the panel of 2 genes is that of a model trained on held-out slides A1;"),
        (
            [("A9", "A"), ("Z1", "")],
            "LEAKAGE: the panel of 2 genes is that of a model trained on slides of held-out pat",
        ),
        ([("Z1", "Z"), ("Z2", "")], "may have seen the test slides"),
    ],
)
def test_a_models_panel_says_which_slides_chose_it(world, tmp_path, trained_on, says):
    facts = {"slides": [{"slide": slide, "patient": patient} for slide, patient in trained_on]}
    (tmp_path / "config.json").write_text(json.dumps({"format": "mclstexp-model", "facts": facts}))
    (tmp_path / "genes.tsv").write_text("symbol\tensembl\nG3\t\nG1\t\n")
    seen = panel_slides(tmp_path / "genes.tsv")
    assert seen == tuple(trained_on)
    assert panel_slides(tmp_path / "other.tsv") == ()
    protocol = EvaluationProtocol(genes=("G3", "G1"), genes_seen=seen)
    (warning,) = run_evaluation(world.slides, [TrainingMean(SCALE)], protocol).warnings
    assert warning.startswith(says) or says in warning
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json"):
        panel_slides(tmp_path / "genes.tsv")


def test_another_scale_is_refused(world):
    told = Told(noise, normalisation=Normalisation(log="log10"))
    with pytest.raises(MismatchError, match=r"told.*log10.*natural"):
        run_evaluation(world.slides, [told], EvaluationProtocol())


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda s, p, _: MethodPrediction(np.zeros((len(s), len(p) + 1), np.float32)), r"mean has shape \(49, 21\)"),
        (lambda s, p, _: MethodPrediction(np.full((len(s), len(p)), np.inf, np.float32)), "infinite"),
        (lambda s, p, _: MethodPrediction(_holey(len(s), len(p))), "NaN for some spots"),
        (lambda s, p, _: MethodPrediction(_flat(s, p), _flat(s, p)[:2], _flat(s, p)), "lower has shape"),
        (lambda s, p, _: MethodPrediction(_flat(s, p), familiarity=np.zeros(3, np.float32)), "familiarity"),
    ],
)
def test_rubbish_predictions_are_refused(world, answer, says):
    with pytest.raises(MismatchError, match=says):
        run_evaluation(world.slides, [Told(answer)], EvaluationProtocol(n_genes=20))


def _flat(slide, panel):
    return np.zeros((len(slide), len(panel)), np.float32)


def _holey(n, genes):
    values = np.zeros((n, genes), np.float32)
    values[0, 0] = np.nan
    return values


def test_a_gene_that_a_slide_did_not_measure_is_dropped_not_zero(world):
    fewer = GENES.subset(range(1, 70))
    slides = list(world.slides)
    spots = slides[4].spots
    slides[4] = replace(slides[4], spots=replace(spots, counts=spots.counts[:, 1:], genes=fewer))
    methods = baseline_methods(world.read, SCALE, k=10)
    result = run_evaluation(slides, methods, EvaluationProtocol(genes=GENES.symbols))
    held_out = next(s for s in result.scores if s.slide_id == "C1" and s.method == "linear probe")
    assert (held_out.n_scored, held_out.n_dropped) == (69, 1)
    # C1 trains folds A and B without saying anything about G0
    other = next(s for s in result.scores if s.slide_id == "A1" and s.method == "linear probe")
    assert other.n_dropped == 0
    side = TrainingSide.of(slides, GENES, SCALE)
    mean = TrainingMean(SCALE)
    mean.fit(slides, GENES, seed=0)
    expected = expression_for(slides[0].spots, GENES, SCALE)[0][:, 0]
    for slide in slides[1:4]:
        expected = np.concatenate([expected, expression_for(slide.spots, GENES, SCALE)[0][:, 0]])
    assert mean.predict(slides[0]).mean[0, 0] == pytest.approx(expected.mean(), rel=1e-6)
    assert sorted(len(genes) for genes, _ in side.gene_groups()) == [1, 69]


def test_a_gene_that_no_training_slide_measured_is_not_predicted(world):
    slides = [
        replace(s, spots=replace(s.spots, counts=s.spots.counts[:, 1:], genes=GENES.subset(range(1, 70))))
        for s in world.slides[:4]
    ]
    for method in baseline_methods(world.read, SCALE, k=10):
        method.fit(slides, GENES, seed=0)
        mean = method.predict(world.slides[4]).mean
        assert np.isnan(mean[:, 0]).all(), method.name
        assert np.isfinite(mean[:, 1:]).all(), method.name


@pytest.mark.parametrize("shape", [(30, 6), (12, 40)])
def test_ridge_agrees_with_scikit_learn(shape):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    x, y, new = rng.normal(size=shape) + 2, rng.normal(size=(shape[0], 3)) - 1, rng.normal(size=(5, shape[1]))
    ours = Ridge(x, y)
    for strength in (0.1, 10.0, 1e4):
        theirs = linear_model.Ridge(alpha=strength).fit(x, y)
        weights, offset = ours.solve(strength)
        np.testing.assert_allclose(weights.T, theirs.coef_, atol=1e-8)
        np.testing.assert_allclose(new @ weights + offset, theirs.predict(new), atol=1e-8)
        np.testing.assert_allclose(ours.predict(ours.rotate(new), strength), theirs.predict(new), atol=1e-8)


def test_the_penalty_is_the_weakest_that_is_nearly_best(world):
    """By scikit-learn and scipy, leaving one slide out."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    side = TrainingSide.of(world.slides[:3], GENES, SCALE)
    x = np.hstack([side.features(world.read)[:, :6], np.random.default_rng(0).normal(size=(3 * SIDE**2, 60))])
    scores = []
    for strength in RIDGE_STRENGTHS:
        parts = []
        for slide in range(3):
            out = side.slide_of == slide
            mean, sd = x[~out].mean(axis=0), x[~out].std(axis=0)
            model = linear_model.Ridge(alpha=strength).fit((x[~out] - mean) / sd, side.expression[~out].astype(float))
            predicted = model.predict((x[out] - mean) / sd)
            truth = side.expression[out].astype(float)
            parts.append(np.mean([stats.pearsonr(truth[:, g], predicted[:, g]).statistic for g in range(len(GENES))]))
        scores.append(np.mean(parts))
    expected = next(a for a, score in zip(RIDGE_STRENGTHS, scores, strict=True) if score >= 0.98 * max(scores))
    assert choose_strength(x, side) == expected
    assert expected != RIDGE_STRENGTHS[0]


def test_one_training_slide_is_divided_into_strips(world):
    blocks = spatial_blocks(world.slides[0])
    assert np.bincount(blocks).tolist() == [10, 10, 10, 10, 9]
    xy = world.slides[0].spots.xy_px
    axis = int(np.ptp(xy, axis=0).argmax())
    edges = [xy[blocks == b, axis] for b in range(5)]
    assert all(left.max() <= right.min() for left, right in itertools.pairwise(edges))
    probe = LinearProbe(world.read, SCALE)
    probe.fit(world.slides[:1], GENES, seed=0)
    assert probe.strength in RIDGE_STRENGTHS


def test_image_retrieval_agrees_with_a_loop(world):
    method = ImageRetrieval(world.read, SCALE, k=5)
    method.fit(world.slides[:3], GENES, seed=0)
    found = method.predict(world.slides[3]).mean
    x = np.concatenate([world.features[s.slide_id] for s in world.slides[:3]])[:, :6]  # the last one is constant
    y = np.concatenate([expression_for(s.spots, GENES, SCALE)[0] for s in world.slides[:3]])
    for i, query in enumerate(world.features["B2"][:, :6]):
        a, b = (query - x.mean(0)) / x.std(0), (x - x.mean(0)) / x.std(0)
        cosine = b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)
        np.testing.assert_allclose(found[i], y[np.argsort(-cosine)[:5]].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_random_references_repeat_with_the_seed_and_average_all_when_k_is_large(world):
    method = RandomReferences(SCALE, k=10)
    predictions = []
    for seed in (0, 0, 1):
        method.fit(world.slides[:2], GENES, seed=seed)
        predictions.append(method.predict(world.slides[2]).mean)
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert not np.allclose(predictions[0], predictions[2])
    everything, mean = RandomReferences(SCALE, k=10_000), TrainingMean(SCALE)
    for m in (everything, mean):
        m.fit(world.slides[:2], GENES, seed=0)
    np.testing.assert_allclose(everything.predict(world.slides[2]).mean, mean.predict(world.slides[2]).mean, rtol=1e-5)


def test_mean_of_rows_ignores_what_was_not_measured():
    table = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan], [5.0, 6.0, np.nan]], np.float32)
    found = mean_of_rows(table, np.array([[0, 1], [0, 0], [1, 2]]))
    np.testing.assert_allclose(found, [[2, 4, np.nan], [1, 5, np.nan], [4, 5, np.nan]])


def test_a_baseline_says_when_it_was_not_fitted_or_its_features_do_not_fit(world):
    with pytest.raises(MismatchError, match="before it was fitted"):
        TrainingMean(SCALE).predict(world.slides[0])
    with pytest.raises(MismatchError, match="49 spots, but features of shape"):
        LinearProbe(lambda slide: world.read(slide)[:3], SCALE).fit(world.slides[:2], GENES, seed=0)
    with pytest.raises(InputError, match="no training spots"):
        TrainingMean(SCALE).fit([], GENES, seed=0)


def test_the_same_evaluation_twice_is_the_same(world):
    protocol = EvaluationProtocol(seeds=(0, 1), n_genes=30)
    runs = [
        json.dumps(run_evaluation(world.slides, baseline_methods(world.read, SCALE, k=5), protocol).to_json())
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_json_is_strict_and_tables_fit_their_headers(result):
    text = json.dumps(result.to_json(), allow_nan=False)
    assert {row["method"] for row in json.loads(text)["overall"]} == set(result.methods)
    for header, rows in (result.table(), result.slide_table()):
        assert rows
        assert {len(row) for row in rows} == {len(header)}
    assert "pcc_nan_dropped" not in result.table()[0]
    assert any("leave one patient out; 3 folds: A (train 3, test 2)" in line for line in result.describe())


def test_progress_counts_every_fold_method_and_seed(world):
    calls = []
    methods = [TrainingMean(SCALE), RandomReferences(SCALE, k=3)]
    protocol = EvaluationProtocol(seeds=(0, 1), n_genes=10)
    run_evaluation(world.slides, methods, protocol, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 9) for i in range(1, 10)]


def test_the_report_is_whole_and_refuses_to_overwrite(result, tmp_path):
    from mclstexp.evaluate.report import write_report

    page = write_report(result, tmp_path / "out")
    assert sorted(p.name for p in page.parent.iterdir()) == [
        "evaluation.json",
        "genes.csv",
        "overall.csv",
        "report.html",
        "slides.csv",
    ]
    text = page.read_text()
    assert len(re.findall("data:image/png;base64,", text)) == 5
    assert "http" not in text.replace("http-equiv", "")
    assert len((page.parent / "genes.csv").read_text().splitlines()) == 1 + len(result.summaries[0].gene_pcc)
    with pytest.raises(ExistsAlreadyError, match="--force"):
        write_report(result, tmp_path / "out")
    write_report(replace(result, maps=(), domain_maps=()), tmp_path / "out", force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_papers_protocols():
    text, code = paper_protocol("paper"), paper_protocol("paper-code", genes=["A", "B"])
    assert text.normalisation == Normalisation(1e6, "all", "natural")
    assert code.normalisation == Normalisation(1e4, "panel", "log10")
    assert text.split.by == code.split.by == "slide"
    with pytest.raises(InputError, match="--genes"):
        paper_protocol("paper-code")


def test_a_protocol_says_what_it_is_and_in_what_it_was_changed():
    text = describe_protocol(paper_protocol("paper"))
    assert "counts per million" in text
    assert "CHANGED" not in text
    changed = replace(paper_protocol("paper"), split=SplitSpec(by="patient"), n_genes=50)
    assert describe_protocol(changed).endswith("CHANGED: split, number of genes")
    code = replace(paper_protocol("paper-code", genes=["A"]), normalisation=SCALE)
    assert describe_protocol(code).endswith("CHANGED: scale")
    assert "published code" in describe_protocol(code)
    assert describe_protocol(EvaluationProtocol()) == "default"
    assert describe_protocol(EvaluationProtocol("her2st")) == "her2st"


def test_the_paper_leaves_four_sections_of_her2st_out(world):
    slides = [replace(world.slides[0], slide_id=name, layout="her2st") for name in ("A1", "A2", "H1", "G3")]
    kept, notes = paper_slides(slides)
    assert [s.slide_id for s in kept] == ["A2", "G3"]
    assert notes[0] == "Left out as in the paper: A1, H1."
    assert "2 of the paper's 32 sections" in notes[1]
    assert "A3, A4" in notes[1]
    kept, notes = paper_slides(slides, named=True)
    assert kept == slides
    assert "2 of the paper's 32" in notes[0]
    everything = [replace(world.slides[0], slide_id=name, layout="her2st") for name in (*PAPER_SECTIONS, "H3")]
    kept, notes = paper_slides(everything)
    assert (len(kept), notes) == (32, ["Left out as in the paper: H3."])
    kept, notes = paper_slides(world.slides)
    assert kept == world.slides
    assert "not the paper's HER2+ cohort" in notes[0]


@pytest.mark.parametrize(("seeds", "n_genes"), [((), 10), ((1, 1), 10), ((-1,), 10), ((0,), 0)])
def test_protocols_that_make_no_sense_are_refused(seeds, n_genes):
    with pytest.raises(InputError):
        EvaluationProtocol(seeds=seeds, n_genes=n_genes)
