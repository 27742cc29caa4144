"""What a training chose, read from hand-made records: whole, with gaps, and none."""

import pytest

from mclstexp.config import recipe
from mclstexp.model.card import model_card
from mclstexp.model.chosen import choice_of, choice_rule, figures_table, settings_table, sparkline
from mclstexp.panel import GenePanel

RECORD = {
    "held_out": "patient",
    "n_folds": 5,
    "settings": {"shared.components": 40, "retrieval.temperature": 0.1},
    "curves": [
        {"setting": "shared.components", "values": [6, 40, 80], "score": [0.2, 0.6, 0.4], "chosen": 1},
    ],
    "baselines": {"linear probe": {"pcc": 0.5, "pcc_pooled": 0.55, "mse": 0.6, "score": 1.1}},
    "recipe": {"pcc": 0.6, "pcc_pooled": 0.65, "mse": 0.5, "score": 1.3},
    "verdict": "The recipe leads.",
}


def test_tables_hold_what_was_chosen_and_by_which_figures():
    assert choice_of([{"epoch": 1}, {"choice": RECORD}, {"shared_space": {}}]) is RECORD
    assert settings_table(RECORD)[1] == [
        ["shared.components", "40", "6, 40, 80", "▁█▅"],
        ["retrieval.temperature", "0.1", "", ""],
    ]
    assert figures_table(RECORD)[1] == [["recipe", 0.6, 0.65, 0.5, 1.3], ["linear probe", 0.5, 0.55, 0.6, 1.1]]
    assert choice_rule(RECORD) == "chosen on patients held out, 5 folds"


def test_settings_tried_together_have_a_row_each():
    curves = [
        {
            "setting": "retrieval.k",
            "settings": ["retrieval.k", "retrieval.temperature"],
            "values": [[25, 0.02], [400, 0.1]],
        },
        {"setting": "contrast", "settings": ["contrast_epochs"], "values": list(range(41)), "chosen": 12},
    ]
    curves[0] |= {"score": [0.1, 0.2], "chosen": 1}
    assert settings_table({"curves": curves})[1] == [
        ["retrieval.k", "400", "25, 400", "▁█"],
        ["retrieval.temperature", "0.1", "0.02, 0.1", "▁█"],
        ["contrast_epochs", "12", "0 to 40", ""],
    ]


@pytest.mark.parametrize("absent", list(RECORD))
def test_a_record_without_a_part_is_read(absent):
    part = {key: value for key, value in RECORD.items() if key != absent}
    assert "What training chose" in model_card([], GenePanel(("A",)), recipe("default"), None, [{"choice": part}])
    assert len(settings_table(part)[1]) >= 1
    assert len(figures_table(part)[1]) >= 1


def test_the_card_says_it_only_where_there_was_a_choice():
    card = model_card([], GenePanel(("A",)), recipe("default"), None, [{"choice": RECORD}])
    assert "| shared.components | 40 | 6, 40, 80 | ▁█▅ |" in card
    assert "| linear probe | 0.500 | 0.550 | 0.600 | 1.100 |" in card
    assert "The recipe leads." in card
    for history in ([], [{"epoch": 1}], [{"choice": "rubbish"}]):
        assert "chose" not in model_card([], GenePanel(("A",)), recipe("default"), None, history)
    assert settings_table({})[1] == figures_table({})[1] == []


def test_bars_leave_gaps():
    assert sparkline([1.0, None, 3.0]) == "▁ █"
    assert sparkline([2.0, 2.0]) == "██"
    assert sparkline([None]) == sparkline([]) == ""
