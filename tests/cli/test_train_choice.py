"""``mst train`` chooses what is not set by hand."""

from pathlib import Path

from commands import ENCODER, FAST, Run

from mclstexp.data.synthetic import CohortPaths
from mclstexp.model.chosen import choice_of
from mclstexp.model.model import Model


def test_what_is_set_by_hand_is_not_chosen(mst: Run, world: CohortPaths, tmp_path: Path) -> None:
    choice = ["--set", 'choose=["shared.components","key_mix","blend"]', "--set", "shared.components=3"]
    result = mst("train", world.refs, "-o", tmp_path / "model", *ENCODER, *FAST, *choice, "--set", "calibrate=false")
    model = Model.load(tmp_path / "model", device="cpu", cache=False)
    record = choice_of(model.history)
    assert record is not None
    assert record["settings"] == {"key_mix": model.config.key_mix, "blend": model.config.blend}
    assert model.config.shared.components == len(model.space.components) == 3
    assert model.config.choose == ()
    assert record["verdict"] in result.stderr
