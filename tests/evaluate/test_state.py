"""An evaluation that was stopped goes on where it was, and gives what an unbroken one gives."""

import pytest
from worlds import Told, noise, oracle

from mclstexp.config import Normalisation
from mclstexp.evaluate.baselines import TrainingMean
from mclstexp.evaluate.methods import Choice, MethodOptions
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.run import run_evaluation
from mclstexp.evaluate.state import EvaluationState, evaluation_facts

PROTOCOL = EvaluationProtocol(seeds=(0, 1), n_genes=40)


class Counted(Told):
    """Truth with a record of how it was chosen; it counts its fits, and stops the run before one of them."""

    def __init__(self, world, stop_at=None):
        super().__init__(oracle(world), "perfect", deterministic=False)
        self._stop_at = stop_at
        self.choice = Choice(("retrieval.k=5",), "by patient", ((("retrieval.k=5",), 0.5), ((), None)))
        self.learned = {"settings": {"k": 5}}

    def fit(self, train, panel, *, seed):
        if len(self.fits) == self._stop_at:
            raise KeyboardInterrupt
        super().fit(train, panel, seed=seed)


def evaluated(world, folder, perfect, facts=None):
    methods = [TrainingMean(Normalisation()), perfect, Told(noise, "noise", deterministic=False)]
    return run_evaluation(world.slides, methods, PROTOCOL, state=EvaluationState(folder, facts or {"of": "tests"}))


def test_a_stopped_evaluation_goes_on_and_ends_the_same(world, tmp_path, caplog):
    caplog.set_level("INFO", logger="mclstexp")
    whole, folder = Counted(world), tmp_path / "report.partial"
    expected = evaluated(world, None, whole)
    with pytest.raises(KeyboardInterrupt):
        evaluated(world, folder, Counted(world, stop_at=3))
    rest = Counted(world)
    resumed = evaluated(world, folder, rest)
    assert "report.partial: 7 runs of a method on a fold were done before" in caplog.text
    assert rest.fits == whole.fits[3:]
    assert resumed.to_json() == expected.to_json()
    assert resumed.table() == expected.table()


def test_a_damaged_file_is_computed_anew(world, tmp_path):
    folder = tmp_path / "report.partial"
    expected = evaluated(world, folder, Counted(world))
    kept = sorted(folder.glob("*.safetensors"))
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    kept[1].write_bytes(b"")
    assert evaluated(world, folder, Counted(world)).to_json() == expected.to_json()


def test_runs_of_other_data_or_settings_are_not_taken(world, tmp_path, caplog):
    caplog.set_level("INFO", logger="mclstexp")
    folder = tmp_path / "report.partial"
    evaluated(world, folder, Counted(world))
    again = Counted(world)
    evaluated(world, folder, again, facts={"of": "other tests"})
    assert "with other data or settings, which are removed" in caplog.text
    assert len(again.fits) == 6  # three patients, two seeds


@pytest.mark.parametrize(
    "change", [{"settings": ("retrieval.k=7",)}, {"encoder_weights": "random"}, {"recipes": ("paper",)}]
)
def test_the_facts_hold_what_decides_the_figures(slides, change):
    facts = evaluation_facts(slides, PROTOCOL, MethodOptions())
    assert facts == evaluation_facts(slides, PROTOCOL, MethodOptions(cache=False))
    assert facts != evaluation_facts(slides, PROTOCOL, MethodOptions(**change))
    assert facts != evaluation_facts(slides[1:], PROTOCOL, MethodOptions())
    assert facts != evaluation_facts(slides, EvaluationProtocol(seeds=(0,), n_genes=40), MethodOptions())


def test_nothing_is_left_once_the_figures_are_written(world, tmp_path):
    state = EvaluationState(tmp_path / "report.partial", {})
    run_evaluation(world.slides, [TrainingMean(Normalisation())], PROTOCOL, state=state)
    state.remove()
    assert not list(tmp_path.iterdir())
