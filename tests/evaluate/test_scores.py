"""What one predicted slide is scored by, and what is refused or warned of."""

import numpy as np
import pytest
from worlds import Told, summaries_by_method

from mclstexp.errors import MismatchError
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.run import run_evaluation
from mclstexp.evaluate.scores import MethodPrediction, SlideScore, coverage_warnings
from mclstexp.panel import GenePanel


def test_seeds_give_a_spread_and_deterministic_methods_run_once(result):
    seeds = {(s.method, s.seed) for s in result.scores}
    assert {seed for method, seed in seeds if method == "noise"} == {0, 1, 2}
    assert {seed for method, seed in seeds if method == "linear probe"} == {None}
    noisy = [s for s in result.scores if s.method == "noise"]
    per_seed = [np.mean([s.values["pcc"] for s in noisy if s.seed == seed]) for seed in (0, 1, 2)]
    spread = summaries_by_method(result)["noise"]["pcc"]
    assert spread.mean == pytest.approx(np.mean(per_seed))
    assert spread.sd_seeds == pytest.approx(np.std(per_seed, ddof=1))
    assert summaries_by_method(result)["linear probe"]["pcc"].sd_seeds is None


def score(method="m", slide_id="S", seed=None, *, coverage, level=0.9):
    values = {"coverage": coverage}
    return SlideScore("f", slide_id, "P", method, seed, 1, 1, 0, 0, values, level, GenePanel(()), np.empty(0))


def test_intervals_are_warned_of_a_tenth_below_their_level_and_by_the_mean_over_seeds():
    assert coverage_warnings([score(coverage=0.8), score(slide_id="T", coverage=None)]) == []
    assert coverage_warnings([score(coverage=0.1, level=None)]) == []
    assert coverage_warnings([score(coverage=0.45, level=0.5)]) == []
    assert coverage_warnings([score(seed=0, coverage=0.75), score(seed=1, coverage=0.86)]) == []
    (text,) = coverage_warnings(
        [
            score(slide_id="B4", coverage=0.555),
            score(slide_id="C2", coverage=0.92),
            score(slide_id="C3", coverage=0.7),
            score("other", slide_id="B4", coverage=0.95),
        ]
    )
    assert "intervals of m are too narrow on 2 of 3 slides" in text
    assert "should hold 0.9 of the measured values and hold 0.555 on B4, 0.700 on C3" in text


def _flat(slide, panel):
    return np.zeros((len(slide), len(panel)), np.float32)


def _holey(n, genes):
    values = np.zeros((n, genes), np.float32)
    values[0, 0] = np.nan
    return values


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
