"""Whose neighbours: colours, stacks and sums."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from worlds import neighbour_table, tiny_prediction

from mclstexp.errors import InputError
from mclstexp.outputs.maps.contributions import contribution_map, draw_contributions, told_apart
from mclstexp.outputs.maps.style import CATEGORIES, OTHERS, style


def weights(n_groups: int) -> pd.DataFrame:
    values = np.random.default_rng(0).dirichlet(np.linspace(2, 0.3, n_groups), 24)
    return pd.DataFrame(values, index=tiny_prediction().spot_ids, columns=[f"G{i}" for i in range(n_groups)])


def test_only_as_many_groups_as_there_are_colours_are_told_apart() -> None:
    assert told_apart(weights(8)).columns.tolist() == [f"G{i}" for i in range(8)]
    many = told_apart(weights(30))
    assert many.columns.tolist() == [*(f"G{i}" for i in range(7)), "23 others"]
    np.testing.assert_allclose(many.sum(axis=1), 1)


@pytest.mark.parametrize("n_groups", [1, 3, 20])
def test_a_spot_has_the_colour_of_its_largest_share(n_groups: int) -> None:
    frame = weights(n_groups)
    with style():
        figure = draw_contributions(tiny_prediction(), frame, "slide")
    shown = [to_hex(colour) for colour in figure.axes[0].collections[0].get_facecolor()]
    own = 8 if n_groups <= 8 else 7
    expected = [CATEGORIES[i] if i < own else OTHERS for i in frame.to_numpy().argmax(axis=1)]
    assert shown == [colour.lower() for colour in expected]
    totals = [bar.get_width() for bar in figure.axes[2].patches]
    assert sum(totals) == pytest.approx(1)


def test_a_picture_of_contributions(tmp_path: Path) -> None:
    contribution_map(tiny_prediction(), tmp_path / "c.pdf", by="patient", dpi=50)
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(InputError, match="has no neighbours"):
        contribution_map(tiny_prediction(evidence=neighbour_table([])), tmp_path / "d.pdf")
    assert not (tmp_path / "d.pdf").exists()
