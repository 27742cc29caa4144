"""What one predicted slide is scored by, and what is refused or warned of."""

import numpy as np
import pytest
from worlds import Told, summaries_by_method

from mclstexp.errors import MismatchError
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.run import run_evaluation
from mclstexp.evaluate.scores import MethodPrediction


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
