"""What neighbours contribute: sums by group against a plain loop, and a gene's mean divided among them."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from worlds import neighbour_table, tiny_prediction

from mclstexp.errors import InputError
from mclstexp.predict.contributions import GROUPS, gene_contributions, group_names, summed, weights_by
from mclstexp.predict.evidence import NEIGHBOUR_SCHEMA, completed, lacking


def table(*rows: tuple[str, str, str, str, float]) -> pa.Table:
    names = ("query_spot", "cohort", "patient", "slide", "weight")
    return completed(
        pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=NEIGHBOUR_SCHEMA)
    )


MIXED = table(
    ("a", "hospital", "P1", "S1", 0.5),
    ("a", "hospital", "P1", "S2", 0.25),
    ("a", "trial", "P1", "T1", 0.25),
    ("b", "trial", "", "T2", 0.75),
    ("b", "", "", "T3", 0.25),
)


def test_groups_have_names_that_tell_them_apart() -> None:
    assert group_names(MIXED, "slide").to_pylist() == ["S1", "S2", "T1", "T2", "T3"]
    assert group_names(MIXED, "cohort").to_pylist() == ["hospital", "hospital", "trial", "trial", "unknown"]
    patients = ["P1 (hospital)", "P1 (hospital)", "P1 (trial)", "unknown (T2)", "unknown (T3)"]
    assert group_names(MIXED, "patient").to_pylist() == patients
    assert group_names(MIXED.slice(0, 2), "patient").to_pylist() == ["P1", "P1"]
    with pytest.raises(InputError, match="by slide, patient, cohort, not by 'spot'"):
        group_names(MIXED, "spot")  # type: ignore[arg-type]


def test_weights_by_group_are_those_of_the_rows() -> None:
    frame = weights_by(MIXED, ["b", "a", "without"], "patient")
    assert frame.index.tolist() == ["b", "a", "without"]
    assert frame.columns.tolist() == ["P1 (hospital)", "unknown (T2)", "P1 (trial)", "unknown (T3)"]
    assert frame.loc["a"].tolist() == [0.75, 0, 0.25, 0]
    assert frame.sum(axis=1).tolist() == [1, 1, 0]


@pytest.mark.parametrize("by", GROUPS)
def test_a_prediction_s_contributions_sum_to_one(by: Any) -> None:
    prediction = tiny_prediction()
    frame = prediction.contributions(by)
    assert frame.index.tolist() == prediction.spot_ids.tolist()
    np.testing.assert_allclose(frame.sum(axis=1), 1, rtol=1e-6)
    assert tiny_prediction(evidence=neighbour_table([])).contributions(by).shape == (24, 0)


def test_sums_of_one_spot() -> None:
    one = MIXED.slice(0, 3)
    frame = summed(one, "cohort", np.array([1.0, np.nan, 0.5], dtype=np.float32))
    expected = pd.DataFrame(
        {"neighbours": [2, 1], "weight": [0.75, 0.25], "contribution": [1.0, 0.5]}, index=["hospital", "trial"]
    )
    pd.testing.assert_frame_equal(frame, expected, check_names=False)
    assert "contribution" not in summed(one, "slide")


@given(
    hnp.arrays(np.float32, 6, elements=st.floats(0.015625, 1, width=32)),
    hnp.arrays(np.float32, 6, elements=st.one_of(st.just(np.nan), st.floats(0, 10, width=32))),
)
def test_contributions_sum_to_the_weighted_mean_of_what_was_measured(weight: Any, value: Any) -> None:
    weight = weight / weight.sum()
    known = np.isfinite(value)
    result = gene_contributions(weight, value, 0.25)
    if weight[known].sum() < 0.2499:
        assert np.isnan(result).all()
    elif weight[known].sum() > 0.2501:
        assert np.array_equal(np.isfinite(result), known)
        assert np.nansum(result) == pytest.approx(np.average(value[known], weights=weight[known]), rel=1e-5, abs=1e-6)


def test_a_table_of_an_earlier_program_is_completed() -> None:
    earlier = MIXED.drop_columns(["label"])
    assert lacking(earlier) == []
    assert completed(earlier).schema.equals(MIXED.schema)
    assert lacking(earlier.drop_columns(["weight"])) == ["weight"]
    assert tiny_prediction(evidence=neighbour_table(["0x0"]).drop_columns(["label"])).neighbours("0x0").shape == (3, 12)
