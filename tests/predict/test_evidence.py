"""The neighbours' table of a prediction: one spot's evidence, from its files and from the prediction."""

from pathlib import Path

import pytest
from worlds import neighbour_table, tiny_prediction

from mclstexp.errors import InputError
from mclstexp.predict.evidence import SHOWN, neighbours_of


def test_neighbours_of_a_spot(tmp_path: Path) -> None:
    path = tmp_path / "p.h5ad"
    tiny_prediction().save(path)
    rows = neighbours_of(path, "1x2")
    assert rows["rank"].to_pylist() == [1, 2, 3]
    assert set(rows["query_spot"].to_pylist()) == {"1x2"}
    with pytest.raises(InputError, match=r"no spot 'zzz'; it has 24 spots, for example 0x0, 0x1"):
        neighbours_of(path, "zzz")
    with pytest.raises(InputError, match="mst query writes it"):
        neighbours_of(tmp_path / "absent.h5ad", "1x2")


def test_a_prediction_shows_a_spot_s_neighbours() -> None:
    prediction = tiny_prediction()
    frame = prediction.neighbours("1x2")
    assert tuple(frame.columns) == SHOWN
    assert frame.index.name == "rank"
    assert frame.index.tolist() == [1, 2, 3]
    assert frame["spot"].tolist() == ["r1", "r2", "r3"]
    assert frame["row_id"].tolist() == [1001, 1002, 1003]
    assert frame["similarity"].is_monotonic_decreasing
    with pytest.raises(InputError, match=r"S1 has no spot 'zzz'; it has 24 spots, for example 0x0, 0x1"):
        prediction.neighbours("zzz")


def test_a_spot_without_neighbours_says_which_have_some() -> None:
    prediction = tiny_prediction(evidence=neighbour_table(["0x0"]))
    with pytest.raises(InputError, match=r"no spot '1x2'; it has 1 spots, for example 0x0"):
        prediction.neighbours("1x2")
