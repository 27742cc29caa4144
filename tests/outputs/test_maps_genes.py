"""Gene maps: what is on the picture, and what is refused."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.collections import EllipseCollection
from PIL import Image
from scipy import sparse, stats

from mclstexp.config import Normalisation
from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.outputs import maps
from mclstexp.outputs.maps import gene_column, gene_map
from mclstexp.panel import GenePanel
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import to_dict

SIDE = 6


def make(**changes: Any) -> Prediction:
    row, col = np.divmod(np.arange(SIDE * SIDE), SIDE)
    mean = np.stack([col, row, np.full(SIDE * SIDE, np.nan)], axis=1).astype(np.float32)
    values: dict[str, Any] = {
        "slide_id": "S1",
        "spot_ids": [f"s{i}" for i in range(SIDE * SIDE)],
        "xy_px": np.stack([200.0 + 300 * col, 200.0 + 300 * row], axis=1),
        "genes": GenePanel(("ERBB2", "CD3E", "XIST"), ("ENSG00000141736.14", "", "")),
        "mean": mean,
        "sd": mean,
        "settings": {"normalisation": to_dict(Normalisation())},
        "spot_diameter_px": 160.0,
        "var": {"missing_reason": ["", "", "no reference measured it"]},
        "thumbnail": np.full((450, 450, 3), 255, dtype=np.uint8),
        "thumbnail_scale": 450 / 1900,
    }
    return Prediction(**{**values, **changes})


def pixels(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"), dtype=float)


def texts(prediction: Prediction, *panels: Any) -> list[str]:
    figure = maps._draw(prediction, "ERBB2", panels)
    return [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes if axes.get_title())]


def test_spots_are_where_they_belong(tmp_path: Path) -> None:
    """Expression that grows to the right is darker (low) on the left, and evenly from top to bottom."""
    gene_map(make(), "ERBB2", tmp_path / "map.png")
    image = pixels(tmp_path / "map.png")
    height, width = image.shape[:2]
    picture = image[int(0.15 * height) : int(0.95 * height), : int(0.8 * width)].mean(axis=2)
    dark = picture < 60
    assert dark[:, : dark.shape[1] // 2].sum() > 20 * max(1, dark[40:-40, dark.shape[1] // 2 : -40].sum())
    top, bottom = np.array_split(dark, 2, axis=0)
    assert 0.7 < top.sum() / bottom.sum() < 1.4


def test_rows_grow_downwards(tmp_path: Path) -> None:
    gene_map(make(), "CD3E", tmp_path / "map.png")
    image = pixels(tmp_path / "map.png")
    height, width = image.shape[:2]
    dark = image[int(0.15 * height) : int(0.95 * height), int(0.1 * width) : int(0.75 * width)].mean(axis=2) < 60
    top, bottom = np.array_split(dark[20:-20], 2, axis=0)
    assert top.sum() > 20 * max(1, bottom.sum())


def test_the_thumbnail_lies_under_the_spots(tmp_path: Path) -> None:
    tinted = np.zeros((450, 450, 3), dtype=np.uint8)
    tinted[..., 1] = 255
    gene_map(make(thumbnail=tinted), "ERBB2", tmp_path / "map.png")
    image = pixels(tmp_path / "map.png")
    green = (image[..., 1] > 200) & (image[..., 0] < 120) & (image[..., 2] < 120)
    assert green.mean() > 0.2


def test_titles_say_gene_slide_scale_and_agreement() -> None:
    prediction = make()
    values = prediction.mean[:, 0]
    assert texts(prediction, ("predicted", prediction.scale, values)) == [
        "ERBB2 on S1",
        "predicted\nlog1p(counts per 10,000 of the panel)",
    ]
    measured = -values
    measured[:3] = np.nan
    titles = texts(prediction, ("predicted", "a", values), ("measured", "b", measured))
    assert titles == ["ERBB2 on S1, PCC -1.000", "predicted\na", "measured, 3 without a value\nb"]


@pytest.mark.parametrize("truth", ["array", "counts"])
def test_predicted_and_measured_share_one_colour_scale(truth: str) -> None:
    prediction = make()
    counts = np.random.default_rng(0).integers(1, 3000, (36, 2))
    measured, scale = maps._measured(
        prediction, 0, 9 * np.ones(36) if truth == "array" else counts_like(prediction, ["ERBB2", "CD3E"], counts)
    )
    predicted = prediction.mean[:, 0]
    assert measured.max() > predicted.max() + 3
    figure = maps._draw(prediction, "ERBB2", [("predicted", scale, predicted), ("measured", scale, measured)])
    circles = [c for axes in figure.axes for c in axes.collections if isinstance(c, EllipseCollection)]
    assert [len(c.get_array()) for c in circles] == [36, 36]
    expected = tuple(np.percentile(np.concatenate([predicted, measured]), [1, 99]))
    for panel in circles:
        assert (panel.norm.vmin, panel.norm.vmax) == pytest.approx(expected)
    # the same value has the same colour on both
    assert circles[0].to_rgba(2.5) == circles[1].to_rgba(2.5)
    assert circles[0].to_rgba(2.5) != circles[0].to_rgba(5.0)


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    gene_map(make(), "ERBB2", tmp_path / "a.png")
    gene_map(make().to_anndata(), "ENSG00000141736", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_without_a_thumbnail_and_with_missing_values(tmp_path: Path) -> None:
    mean = make().mean.copy()
    mean[:5, 0] = np.nan
    gene_map(make(mean=mean, thumbnail=None, thumbnail_scale=None), "ERBB2", tmp_path / "map.png")
    assert pixels(tmp_path / "map.png").std() > 10


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_gene_and_a_single_spot(tmp_path: Path, value: float) -> None:
    one = make(
        spot_ids=["a"], xy_px=[[300.0, 300.0]], mean=np.full((1, 3), value), sd=np.zeros((1, 3)), thumbnail=None,
        thumbnail_scale=None,
    )  # fmt: skip
    gene_map(one, "ERBB2", tmp_path / "map.png", truth=np.zeros(1, dtype=np.float32))
    assert pixels(tmp_path / "map.png").std() > 1


def counts_like(prediction: Prediction, genes: list[str], counts: Any) -> ad.AnnData:
    adata = ad.AnnData(sparse.csr_matrix(np.asarray(counts, dtype=np.float32)))
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
    prediction = make(settings=settings if panel is None else {**settings, "panel_genes": panel})
    counts = np.random.default_rng(0).integers(1, 30, (36, 3))
    truth = counts_like(prediction, ["ERBB2", "CD3E", "OTHER"], counts)[::-1].copy()
    values, scale = maps._measured(prediction, 0, truth)
    expected = np.log(1 + normalisation.target_sum * counts[:, 0] / counts[:, total].sum(axis=1))
    if normalisation.log == "log10":
        expected /= np.log(10)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert scale == prediction.scale


def test_a_truth_may_name_its_genes_otherwise(tmp_path: Path) -> None:
    """By Ensembl id, as symbols or beside them: the gene and the panel's total are those of the prediction."""
    prediction = make()
    counts = np.random.default_rng(0).integers(1, 30, (36, 3))
    expected, _ = maps._measured(prediction, 0, counts_like(prediction, ["ERBB2", "CD3E", "OTHER"], counts))
    by_id = counts_like(prediction, ["ENSG00000141736.9", "CD3E", "OTHER"], counts)
    np.testing.assert_array_equal(maps._measured(prediction, 0, by_id)[0], expected)
    alias = counts_like(prediction, ["HER2", "CD3E", "OTHER"], counts)
    with pytest.raises(InputError, match="no gene 'ERBB2'"):
        gene_map(prediction, "ERBB2", tmp_path / "map.png", truth=alias)
    alias.var["gene_ids"] = ["ENSG00000141736", "", ""]
    np.testing.assert_array_equal(maps._measured(prediction, 0, alias)[0], expected)


def test_spots_without_truth_have_none() -> None:
    prediction = make()
    truth = counts_like(prediction, ["ERBB2", "CD3E"], np.ones((36, 2)))[4:].copy()
    values, _ = maps._measured(prediction, 0, truth)
    assert np.isnan(values).tolist() == [True] * 4 + [False] * 32


def test_a_truth_that_does_not_fit(tmp_path: Path) -> None:
    prediction, path = make(), tmp_path / "map.png"
    fitting = counts_like(prediction, ["ERBB2", "CD3E"], np.ones((36, 2)))
    other_spots = fitting.copy()
    other_spots.obs_names = [f"t{i}" for i in range(36)]
    wrong: list[tuple[Any, str]] = [
        (np.zeros(5), "shape"),
        (fitting[:, ["CD3E"]].copy(), "no gene 'ERBB2' among its 1"),
        (other_spots, "share no spot id; for example 't0' and 's0'"),
        (counts_like(prediction, ["ERBB2", "CD3E"], np.full((36, 2), 0.5)), "not raw counts"),
        (counts_like(prediction, ["ERBB2", "CD3E"], np.full((36, 2), -1)), "not raw counts"),
    ]
    for truth, says in wrong:
        with pytest.raises(InputError, match=says):
            gene_map(prediction, "ERBB2", path, truth=truth)
    assert not path.exists()


@pytest.mark.parametrize(
    ("gene", "says"),
    [
        ("ERB2", "no gene 'ERB2' among its 3; near: ERBB2"),
        ("erbb2", "near: ERBB2"),
        ("zzzzzz", "among its 3; it has ERBB2, CD3E, XIST, ...; mst query --genes"),
        ("", "no gene ''"),
        ("XIST", "no reference measured it"),
    ],
)
def test_a_gene_that_is_not_there(gene: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        gene_column(make(), gene)


def test_genes_by_symbol_and_id() -> None:
    assert gene_column(make(), "CD3E") == 1
    assert gene_column(make(), "ENSG00000141736") == gene_column(make(), "ENSG00000141736.3") == 0


def test_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a \.png file"):
        gene_map(make(), "ERBB2", tmp_path / "map.pdf")
    with pytest.raises(InputError, match="does not exist"):
        gene_map(make(), "ERBB2", tmp_path / "no" / "map.png")
    (tmp_path / "map.png").write_text("mine")
    with pytest.raises(ExistsAlreadyError, match="--force"):
        gene_map(make(), "ERBB2", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_text() == "mine"
    gene_map(make(), "ERBB2", tmp_path / "map.png", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


@given(hnp.arrays(np.float32, (2, 8), elements=st.floats(-100, 100, width=16)))
def test_the_correlation_agrees_with_scipy(values: Any) -> None:
    a, b = values
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(maps._correlation(a, b))
        return
    if min(a.std(), b.std()) < 1e-2:
        return
    assert maps._correlation(a, b) == pytest.approx(
        stats.pearsonr(a.astype(float), b.astype(float)).statistic, abs=1e-6
    )


def test_the_correlation_leaves_out_what_is_unknown() -> None:
    a = np.array([1, 2, 3, np.nan, 9], dtype=np.float32)
    b = np.array([2, 4, 6, 1, np.nan], dtype=np.float32)
    assert maps._correlation(a, b) == pytest.approx(1.0)
    assert np.isnan(maps._correlation(a[3:], b[3:]))
