"""Nested choice of settings: what it may look at, what it picks, and what it refuses."""

import dataclasses
import itertools
import json
from typing import ClassVar

import numpy as np
import pytest
from scipy import sparse
from worlds import SCALE, TINY

from mclstexp.errors import InputError
from mclstexp.evaluate.folds import SplitSpec
from mclstexp.evaluate.methods import MethodOptions
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.retrieval import RetrievalMethod, evaluation_methods
from mclstexp.evaluate.run import run_evaluation
from mclstexp.evaluate.tuning import TunedMethod, inner_folds, parse_grid

BY_SLIDE = SplitSpec(by="slide")
GRID = parse_grid(["retrieval.k=1,30"])


class Spy(RetrievalMethod):
    """The real method; writes down what it is given."""

    log: ClassVar[list[tuple[str, object, object]]] = []

    def fit(self, train_slides, panel, *, seed):
        self.log.append(("fit", self.config, [slide.slide_id for slide in train_slides]))
        super().fit(train_slides, panel, seed=seed)

    def predict(self, slide):
        assert slide.spots.counts is None
        self.log.append(("predict", self.config, slide.slide_id))
        return super().predict(slide)


@pytest.fixture
def spy(resources, monkeypatch):
    monkeypatch.setattr(Spy, "log", [])
    return lambda config: Spy(config, resources, SCALE)


def make(resources):
    return lambda config: RetrievalMethod(config, resources, SCALE)


def test_the_inner_loop_never_meets_the_test_slide(slides, spy):
    protocol = EvaluationProtocol(split=SplitSpec(train=("P1_A", "P1_B", "P2_A"), test=("P2_B",), by="slide"))
    run_evaluation(slides, [TunedMethod(TINY, GRID, spy, protocol.split)], protocol)
    *inner, last_fit, last_predict = Spy.log
    assert len(inner) == 2 * 2 * 3  # a fit and a prediction, for two settings, three times
    for (_, config, train), (_, same, held_out) in zip(inner[::2], inner[1::2], strict=True):
        assert config == same
        assert not config.calibrate
        assert sorted([*train, held_out]) == ["P1_A", "P1_B", "P2_A"]
    assert last_fit[0] == "fit"
    assert last_fit[1].calibrate
    assert last_fit[2] == ["P1_A", "P1_B", "P2_A"]
    assert last_predict[2] == "P2_B"


def test_what_the_test_slide_measured_changes_neither_choice_nor_prediction(slides, resources):
    split = SplitSpec(by="slide", test=("P2_B",))
    outcomes = []
    for last in (slides[3], shuffled(slides[3])):
        method = TunedMethod(TINY, GRID, make(resources), split)
        panel = ("ERBB2", "COL1A1", "CD3E", "ADIPOQ", "MKI67", "ACTB")
        result = run_evaluation([*slides[:3], last], [method], EvaluationProtocol(split=split, genes=panel))
        outcomes.append((result.folds[0]["choices"], method.predict(last).mean))
    assert outcomes[0][0] == outcomes[1][0]
    np.testing.assert_array_equal(outcomes[0][1], outcomes[1][1])


def shuffled(slide):
    counts = slide.spots.counts.toarray()[::-1] + 1
    return dataclasses.replace(slide, spots=dataclasses.replace(slide.spots, counts=sparse.csr_matrix(counts)))


def test_inner_scores_are_those_of_an_evaluation_of_the_training_side_and_the_best_wins(slides, resources):
    outer = EvaluationProtocol(split=SplitSpec(by="slide", test=("P1_B",)), n_genes=25)
    result = run_evaluation(slides, [TunedMethod(TINY, GRID, make(resources), outer.split)], outer)
    symbols = {score.fold: score.genes.symbols for score in result.scores}
    for fold in result.folds:
        (choice,) = fold["choices"]
        train = [slide for slide in slides if slide.slide_id in fold["train"]]
        protocol = EvaluationProtocol(split=BY_SLIDE, genes=symbols[fold["name"]])
        expected = []
        for k in (1, 30):
            config = dataclasses.replace(TINY, calibrate=False, retrieval=dataclasses.replace(TINY.retrieval, k=k))
            summary = run_evaluation(train, [RetrievalMethod(config, resources, SCALE)], protocol).summaries[0]
            expected.append(summary.values["pcc"].mean)
        assert [tried["pcc"] for tried in choice["inner_pcc"]] == pytest.approx(expected, abs=1e-12)
        # one neighbour is one noisy spot
        assert expected[1] > expected[0]
        assert choice["chosen"] == ["retrieval.k=30"]
        assert choice["rule"] == "inner folds leave one slide out"
    (line,) = [text for text in result.describe() if text.startswith("settings of default, tuned")]
    assert "(inner folds leave one slide out): retrieval.k=30 in P1_B" in line


def test_the_same_tuning_twice_is_the_same(slides, resources):
    protocol = EvaluationProtocol(split=SplitSpec(by="slide", test=("P1_A",)), seeds=(0, 1), n_genes=20)
    runs = []
    for _ in range(2):
        method = TunedMethod(TINY, GRID, make(resources), protocol.split)
        runs.append(json.dumps(run_evaluation(slides, [method], protocol).to_json()))
    assert runs[0] == runs[1]
    choices = json.loads(runs[0])["folds"][0]["choices"]
    assert [choice["seed"] for choice in choices] == [0, 1]
    assert json.loads(runs[0])["recipes"]["default, tuned"]["encoder"]["name"] == "test_resnet"


def test_inner_folds_follow_the_outer_rule_where_they_can(slides):
    def named(*patients, folds=()):
        return [
            dataclasses.replace(slides[i % 4], slide_id=f"S{i}", patient=patient, cohort=patient.lower())
            for i, patient in enumerate(patients)
        ]

    def names(train, split):
        folds, rule = inner_folds(train, split)
        return [[slide.slide_id for slide in fold.test] for fold in folds], rule

    three = named("A", "A", "B", "C")
    assert names(three, SplitSpec(by="patient")) == (
        [["S0", "S1"], ["S2"], ["S3"]],
        "inner folds leave one patient out",
    )
    assert names(three, SplitSpec(by="cohort"))[0] == [["S0", "S1"], ["S2"], ["S3"]]
    single = [["S0"], ["S1"], ["S2"]]
    two, rule = names(named("A", "A", "B"), SplitSpec(by="patient"))
    assert (two, "leave one slide out" in rule, "here are 2" in rule) == (single, True, True)
    assert names(named("A", "", "B"), SplitSpec(by="patient"))[0] == single
    given = SplitSpec(folds=(("S0", "x"), ("S1", "y"), ("S2", "y"), ("S3", "z"), ("S9", "w")))
    assert names(named("A", "B", "C", "D"), given)[0] == [["S0"], ["S1", "S2"], ["S3"]]
    assert "given fold" in names(named("A", "B", "C", "D"), given)[1]
    assert names(named("A"), SplitSpec(by="slide"))[0] == []
    blind = [*named("A", "B"), dataclasses.replace(slides[3], slide_id="S3", image=None)]
    folds, _ = inner_folds(blind, SplitSpec(by="slide"))
    assert [[slide.slide_id for slide in fold.train] for fold in folds] == [["S1", "S3"], ["S0", "S3"]]


def test_one_training_slide_keeps_the_recipe_and_says_so(slides, spy):
    split = SplitSpec(by="slide", train=("P1_A",), test=("P2_A",))
    method = TunedMethod(TINY, GRID, spy, split)
    result = run_evaluation(slides, [method], EvaluationProtocol(split=split, n_genes=20))
    assert [kind for kind, *_ in Spy.log] == ["fit", "predict"]
    assert Spy.log[0][1].retrieval == TINY.retrieval
    (line,) = [text for text in result.describe() if text.startswith("settings of")]
    assert "one training slide leaves nothing to choose on" in line
    assert "the recipe's own in P2_A" in line


def test_where_nothing_can_be_scored_the_recipe_is_kept_and_it_says_so(slides, spy):
    counts = slides[1].spots.counts.toarray()
    still = [  # every spot of a slide alike: no gene's correlation is defined
        dataclasses.replace(
            slide, spots=dataclasses.replace(slide.spots, counts=sparse.csr_matrix(np.tile(row, (len(slide), 1))))
        )
        for slide, row in zip(slides[:2], counts, strict=False)
    ]
    split = SplitSpec(by="slide", train=("P1_A", "P1_B"), test=("P2_A",))
    method = TunedMethod(TINY, GRID, spy, split)
    genes = ("ERBB2", "COL1A1", "CD3E", "ADIPOQ", "MKI67", "ACTB")
    result = run_evaluation([*still, slides[2]], [method], EvaluationProtocol(split=split, genes=genes))
    assert method.choice.scores == tuple((settings, None) for settings in GRID)
    assert method.choice.settings == ()
    assert [config for kind, config, _ in Spy.log if kind == "fit"][-1] == TINY
    (line,) = [text for text in result.describe() if text.startswith("settings of")]
    assert "no combination could be scored: the recipe's own settings are kept): the recipe's own in P2_A" in line


def test_a_grid_is_every_combination_in_order():
    assert parse_grid([]) == ()
    assert parse_grid(["a.b=1,2", "c=x, y"]) == tuple(itertools.product(("a.b=1", "a.b=2"), ('c="x"', 'c="y"')))
    assert parse_grid(["shared.context_scales=[1],[1,2]"]) == (
        ("shared.context_scales=[1]",),
        ("shared.context_scales=[1, 2]",),
    )
    assert len(parse_grid(["a=1,2,3,4,5,6,7,8", "b=1,2,3,4"])) == 32


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("100,400,", [100, 400]),
        (" ,100,, 400 , ", [100, 400]),
        ("1,true", [1, True]),
        ("1,one", [1, "one"]),
        ("1e3x, 2", ["1e3x", 2]),
        ('"a,b",c', ["a,b", "c"]),
        ("[1, 2],null,", [[1, 2], None]),
        ("NaN,1", ["NaN", 1]),
        ("[" * 9999 + ",1", ["[" * 9999, 1]),
    ],
)
def test_each_value_of_a_list_is_read_by_itself(text, values):
    assert parse_grid([f"a={text}"]) == tuple((f"a={json.dumps(value)}",) for value in values)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["retrieval.k"], "not of the form"),
        (["=1,2"], "not of the form"),
        (["retrieval.k=5"], "gives 1 value"),
        (["retrieval.k="], "gives 0 value"),
        (["retrieval.k=5,5"], "a value twice"),
        (["key_mix=1,1.0"], "a value twice"),
        (["encoder.scales=[1],[1.0]"], "a value twice"),
        (["retrieval.k=,"], "gives 0 value"),
        (["retrieval.k=1,2", "retrieval.k=3,4"], "twice"),
        (["seed=1,2"], "--seeds"),
        (["recipe=default,paper"], "'recipe'"),
        (["a=1,2,3,4,5,6", "b=1,2,3,4,5,6"], "36 combinations"),
    ],
)
def test_bad_grids_are_one_line(texts, says):
    with pytest.raises(InputError) as error:
        parse_grid(texts)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("grid", "recipes", "says"),
    [
        (["retrieval.kk=1,2"], ("default",), "Unknown setting 'retrieval.kk'"),
        (["retrieval.k=one,two"], ("default",), "must be int, got 'one'"),
        (["key_mix=NaN,1"], ("default",), "key_mix"),
        (["retrieval.k=1,2"], ("paper", "paper-code"), "--recipe default"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_fitted(tmp_path, grid, recipes, says):
    options = MethodOptions(recipes=recipes, grid=parse_grid(grid), encoder_weights="random", cache=tmp_path)
    with pytest.raises(InputError) as error:
        evaluation_methods(options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
