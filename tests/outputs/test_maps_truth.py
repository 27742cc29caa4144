"""What was measured: matched, normalised as the prediction, and refused when it is of another slide."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse, stats
from worlds import tiny_prediction

from mclstexp.config import Normalisation
from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.outputs.maps.truth import check_same_slide, correlation, measured, read_truth
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import to_dict
from mclstexp.slide import Slide


def counts_like(prediction: Prediction, genes: list[str], counts: Any = None) -> ad.AnnData:
    values = np.ones((len(prediction), len(genes))) if counts is None else counts
    adata = ad.AnnData(sparse.csr_matrix(np.asarray(values, dtype=np.float32)))
    adata.obs_names, adata.var_names = list(prediction.spot_ids), genes
    return adata


@pytest.mark.parametrize(
    ("normalisation", "panel", "total"),
    [
        (Normalisation(), None, [0, 1]),
        (Normalisation(), ["ERBB2", "OTHER"], [0, 2]),
        (Normalisation(1e6, "all", "natural"), None, [0, 1, 2]),
        (Normalisation(1e4, "panel", "log10"), None, [0, 1]),
    ],
)
def test_truth_is_normalised_as_the_prediction_was(
    normalisation: Normalisation, panel: list[str] | None, total: list[int]
) -> None:
    settings: dict[str, Any] = {"normalisation": to_dict(normalisation)}
    prediction = tiny_prediction(settings=settings if panel is None else {**settings, "panel_genes": panel})
    counts = np.random.default_rng(0).integers(1, 30, (24, 3))
    truth = counts_like(prediction, ["ERBB2", "CD3E", "OTHER"], counts)[::-1].copy()
    values, scale = measured(prediction, 0, truth)
    expected = np.log(1 + normalisation.target_sum * counts[:, 0] / counts[:, total].sum(axis=1))
    if normalisation.log == "log10":
        expected /= np.log(10)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert scale == prediction.scale


def test_a_truth_may_name_its_genes_otherwise() -> None:
    """By Ensembl id, as symbols or beside them: the gene and the panel's total are those of the prediction."""
    prediction = tiny_prediction()
    counts = np.random.default_rng(0).integers(1, 30, (24, 3))
    expected, _ = measured(prediction, 0, counts_like(prediction, ["ERBB2", "CD3E", "OTHER"], counts))
    by_id = counts_like(prediction, ["ENSG00000141736.9", "CD3E", "OTHER"], counts)
    np.testing.assert_array_equal(measured(prediction, 0, by_id)[0], expected)
    alias = counts_like(prediction, ["HER2", "CD3E", "OTHER"], counts)
    with pytest.raises(InputError, match="no gene 'ERBB2'"):
        measured(prediction, 0, alias)
    alias.var["gene_ids"] = ["ENSG00000141736", "", ""]
    np.testing.assert_array_equal(measured(prediction, 0, alias)[0], expected)


def test_spots_without_truth_have_none() -> None:
    prediction = tiny_prediction()
    values, _ = measured(prediction, 0, counts_like(prediction, ["ERBB2", "CD3E"])[4:].copy())
    assert np.isnan(values).tolist() == [True] * 4 + [False] * 20


def test_a_truth_that_does_not_fit() -> None:
    prediction = tiny_prediction()
    fitting = counts_like(prediction, ["ERBB2", "CD3E"])
    other_spots, twice = fitting.copy(), fitting.copy()
    other_spots.obs_names = [f"t{i}" for i in range(24)]
    twice.obs_names = ["0x0"] * 24
    wrong: list[tuple[Any, str]] = [
        (np.zeros(5), "shape"),
        (fitting[:, ["CD3E"]].copy(), "no gene 'ERBB2' among its 1"),
        (other_spots, "share no spot id; for example 't0' and '0x0'"),
        (twice, "1 spot ids of the truth occur more than once"),
        (counts_like(prediction, ["ERBB2", "CD3E"], np.full((24, 2), 0.5)), "not raw counts"),
        (counts_like(prediction, ["ERBB2", "CD3E"], np.full((24, 2), -1)), "not raw counts"),
    ]
    for truth, says in wrong:
        with pytest.raises(InputError, match=says):
            measured(prediction, 0, truth)


@pytest.mark.parametrize("change", [lambda xy: xy + 180.0, lambda xy: xy[:, ::-1], lambda xy: xy * 0.25])
def test_the_truth_of_another_slide_is_refused_by_position(change: Any) -> None:
    """Spot ids agree; the spots lie elsewhere: another slide, x and y exchanged, another resolution."""
    prediction = tiny_prediction()
    truth = counts_like(prediction, ["ERBB2"])[::-1].copy()
    truth.obsm["spatial"] = prediction.xy_px[::-1].copy()
    truth.uns["spatial"] = {"quite another name": {}}
    check_same_slide(prediction, truth)
    truth.obsm["spatial"] = change(prediction.xy_px[::-1])
    with pytest.raises(InputError, match=r"\(quite another name\) is not of slide S1.* px apart .*110 px wide"):
        check_same_slide(prediction, truth)


def test_without_positions_the_name_decides() -> None:
    prediction = tiny_prediction()
    truth = counts_like(prediction, ["ERBB2"])
    with pytest.warns(MclstexpWarning, match="matched by id alone"):
        check_same_slide(prediction, truth)
    truth.obs["slide"] = "S1"
    check_same_slide(prediction, truth)
    truth.obs["slide"] = "S2"
    with pytest.raises(InputError, match=r"of slide 'S2' and the prediction of 'S1'.*obsm\['spatial'\]"):
        check_same_slide(prediction, truth)


def test_truth_may_be_slides_of_any_layout(shown: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slide is found by the image that the prediction names, or by its own name."""

    def slides_of(path: Path, only: list[str] | None = None) -> list[Slide]:
        return [slide for slide in shown.library.slides if only is None or slide.slide_id in only]

    monkeypatch.setattr("mclstexp.data.readers.read_slides", slides_of)
    own = shown.library.slides[4]
    truth = read_truth(tmp_path, shown.prediction)
    check_same_slide(shown.prediction, truth)
    counts, _ = own.require_counts()
    assert (counts != truth.X).nnz == 0
    assert read_truth(tmp_path, tiny_prediction(), own.slide_id).obs_names.tolist() == own.spots.spot_ids.tolist()
    with pytest.raises(InputError, match=r"holds 5 slides .* none of them surely 'S1'; name it with --truth-slide"):
        read_truth(tmp_path, tiny_prediction())


@given(hnp.arrays(np.float32, (2, 8), elements=st.floats(-100, 100, width=16)))
def test_the_correlation_agrees_with_scipy(values: Any) -> None:
    a, b = values
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(correlation(a, b))
        return
    if min(a.std(), b.std()) < 1e-2:
        return
    assert correlation(a, b) == pytest.approx(stats.pearsonr(a.astype(float), b.astype(float)).statistic, abs=1e-6)


def test_the_correlation_leaves_out_what_is_unknown() -> None:
    a = np.array([1, 2, 3, np.nan, 9], dtype=np.float32)
    b = np.array([2, 4, 6, 1, np.nan], dtype=np.float32)
    assert correlation(a, b) == pytest.approx(1.0)
    assert np.isnan(correlation(a[3:], b[3:]))
