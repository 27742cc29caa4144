"""Maps of spots as a whole."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import EllipseCollection
from worlds import PREDICTED_SPOTS, tiny_prediction

from mclstexp.errors import InputError
from mclstexp.outputs.maps.fields import draw_fields, field_maps
from mclstexp.outputs.maps.style import style


def test_each_field_has_its_own_scale_and_familiarity_a_fixed_one(tmp_path: Path) -> None:
    n = PREDICTED_SPOTS
    obs = {"familiarity": np.linspace(40, 60, n), "n_effective": np.linspace(3, 300, n), "similarity": np.full(n, 0.5)}
    prediction = tiny_prediction(obs=obs)
    with style():
        figure = draw_fields(prediction, {name: np.asarray(values, np.float32) for name, values in obs.items()})
    drawn = [c for axes in figure.axes for c in axes.collections if isinstance(c, EllipseCollection)]
    assert (drawn[0].norm.vmin, drawn[0].norm.vmax) == (0, 100)
    np.testing.assert_allclose(drawn[1].get_array(), obs["n_effective"], rtol=1e-6)
    field_maps(prediction, tmp_path / "f.png", dpi=50)
    assert (tmp_path / "f.png").stat().st_size > 1000


def test_a_prediction_without_any_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of familiarity, similarity"):
        field_maps(tiny_prediction(obs={}), tmp_path / "f.png")
