"""The protocol: panels that were given, and what makes no sense."""

import json

import pytest

from mclstexp.config import Normalisation
from mclstexp.errors import InputError
from mclstexp.evaluate.baselines import TrainingMean
from mclstexp.evaluate.protocol import EvaluationProtocol, panel_slides
from mclstexp.evaluate.run import run_evaluation

SCALE = Normalisation()


def test_a_given_panel_is_reported_as_perhaps_chosen_on_the_test_slides(world):
    result = run_evaluation(world.slides, [TrainingMean(SCALE)], EvaluationProtocol(genes=("G3", "G1", "G99")))
    assert result.scores[0].genes.symbols == ("G3", "G1")
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


@pytest.mark.parametrize(("seeds", "n_genes"), [((), 10), ((1, 1), 10), ((-1,), 10), ((0,), 0)])
def test_protocols_that_make_no_sense_are_refused(seeds, n_genes):
    with pytest.raises(InputError):
        EvaluationProtocol(seeds=seeds, n_genes=n_genes)
