"""Gene maps: what is on the picture, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from PIL import Image

from mclstexp.config import Normalisation
from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.outputs.maps import gene_column, gene_maps
from mclstexp.outputs.maps.genes import draw_rows, gene_panels
from mclstexp.outputs.maps.style import new_figure, save_figure, style
from mclstexp.panel import GenePanel
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import to_dict

SIDE, DPI = 6, 60


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


def drawn(prediction: Prediction, genes: list[str], truth: Any = None, show: Any = "both") -> Figure:
    rows = [gene_panels(prediction, gene_column(prediction, gene), truth, show) for gene in genes]
    with style():
        return draw_rows(prediction, rows)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def circles(figure: Figure) -> list[EllipseCollection]:
    return [c for axes in figure.axes for c in axes.collections if isinstance(c, EllipseCollection)]


@pytest.mark.parametrize(("gene", "axis"), [("ERBB2", 1), ("CD3E", 0)])
def test_spots_are_where_they_belong(tmp_path: Path, gene: str, axis: int) -> None:
    """Expression that grows to the right, or downwards, is yellow there and violet at the other end."""
    gene_maps(make(), [gene], tmp_path / "map.png", show="expression", dpi=DPI)
    image = pixels(tmp_path / "map.png")
    height, width = image.shape[:2]
    picture = image[int(0.15 * height) :, : int(0.75 * width)]
    low, high = (np.asarray(colormaps["viridis"](end)[:3]) * 255 for end in (0.0, 1.0))
    first, last = (np.argwhere(np.abs(picture - colour).max(axis=2) < 12)[:, axis] for colour in (low, high))
    assert min(len(first), len(last)) > 30
    assert first.max() < last.min()


def test_the_slide_lies_under_the_spots_pale_and_grey() -> None:
    tinted = np.zeros((450, 450, 3), dtype=np.uint8)
    tinted[..., 1] = 255
    (image,) = drawn(make(thumbnail=tinted), ["ERBB2"], show="expression").axes[0].images
    assert np.asarray(image.get_array()).ndim == 2
    assert 150 < np.asarray(image.get_array()).mean() < 250
    left, right, bottom, top = image.get_extent()
    assert left < 200 < 1700 < right
    assert top < 200 < 1700 < bottom, "y grows downwards"


def test_titles_say_gene_agreement_and_what_is_missing() -> None:
    prediction = make()
    measured = -prediction.mean[:, 0]
    measured[:3] = np.nan
    assert titles(drawn(prediction, ["ERBB2"])) == ["ERBB2, predicted", "spread of the neighbours"]
    assert titles(drawn(prediction, ["ERBB2"], measured, "expression")) == [
        "ERBB2, predicted",
        "measured, PCC -1.000, 3 without a value",
    ]
    constant = titles(drawn(prediction, ["ERBB2"], np.ones(36, np.float32)))
    assert constant[1] == "measured, PCC not defined"


def test_intervals_come_before_the_spread() -> None:
    mean = make().mean
    prediction = make(lower=mean - 1, upper=mean + 2, settings={**make().settings, "interval_level": 0.8})
    assert titles(drawn(prediction, ["ERBB2"])) == ["ERBB2, predicted", "width of the 80% interval"]
    figure = drawn(prediction, ["ERBB2"], show="uncertainty")
    assert titles(figure) == ["ERBB2, width of the 80% interval", "ERBB2, spread of the neighbours"]
    np.testing.assert_allclose(circles(figure)[0].get_array(), 3, rtol=1e-6)
    with pytest.raises(InputError, match="neither intervals nor a spread"):
        drawn(make(sd=None), ["ERBB2"], show="uncertainty")
    assert titles(drawn(make(sd=None), ["ERBB2"])) == ["ERBB2, predicted"]


def test_predicted_and_measured_share_one_colour_scale() -> None:
    prediction, measured = make(), np.full(36, 9, dtype=np.float32)
    figure = drawn(prediction, ["ERBB2"], measured, "expression")
    both = circles(figure)
    assert [len(c.get_array()) for c in both] == [36, 36]
    expected = tuple(np.percentile(np.concatenate([prediction.mean[:, 0], measured]), [1, 99]))
    for panel in both:
        assert (panel.norm.vmin, panel.norm.vmax) == pytest.approx(expected)
    assert both[0].to_rgba(2.5) == both[1].to_rgba(2.5)
    assert both[0].to_rgba(2.5) != both[0].to_rgba(5.0)
    assert len(figure.axes) == 3, "two maps and one colour bar"


def test_several_genes_have_scales_of_their_own() -> None:
    mean = make().mean * np.array([1, 10, 1], dtype=np.float32)
    figure = drawn(make(mean=mean), ["ERBB2", "CD3E", "ERBB2"])
    assert titles(figure)[:4] == ["ERBB2, predicted", "spread of the neighbours", "CD3E, predicted",
                                  "spread of the neighbours"]  # fmt: skip
    assert [c.norm.vmax for c in circles(figure)[::2]] == pytest.approx([5, 50, 5])


@pytest.mark.parametrize("mpp", [None, 0.5])
def test_a_scale_bar_or_why_there_is_none(mpp: float | None) -> None:
    figure = drawn(make(mpp=mpp), ["ERBB2"], show="expression")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == ([] if mpp else ["no pixel size, no scale"])
    bars = [one for one in figure.axes[0].artists if type(one).__name__ == "ScaleBar"]
    assert [bar.dx for bar in bars] == ([mpp] if mpp else [])


@pytest.mark.parametrize(("suffix", "begins"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_the_same_call_gives_the_same_bytes(tmp_path: Path, suffix: str, begins: bytes) -> None:
    gene_maps(make(mpp=0.5), ["ERBB2"], tmp_path / f"a{suffix}", dpi=DPI)
    gene_maps(make(mpp=0.5).to_anndata(), ["ENSG00000141736"], tmp_path / f"b{suffix}", dpi=DPI)
    first = (tmp_path / f"a{suffix}").read_bytes()
    assert first.startswith(begins)
    assert first == (tmp_path / f"b{suffix}").read_bytes()


def test_names_are_no_formulas(tmp_path: Path) -> None:
    """A dollar or a backslash in a name of a slide or gene is drawn as it is."""
    genes = GenePanel(("$\\frac{x$", "CD3E", "XIST"))
    gene_maps(make(genes=genes, slide_id="a $x_{ b"), [genes.symbols[0]], tmp_path / "map.svg", show="expression")
    assert (tmp_path / "map.svg").stat().st_size > 1000


def test_without_a_thumbnail_and_with_missing_values() -> None:
    mean = make().mean.copy()
    mean[:5, 0] = np.nan
    figure = drawn(make(mean=mean, thumbnail=None, thumbnail_scale=None), ["ERBB2"], show="expression")
    assert len(circles(figure)[0].get_array()) == 31
    (crosses,) = figure.axes[0].lines
    assert len(crosses.get_xdata()) == 5
    assert not figure.axes[0].images


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_gene_and_a_single_spot(tmp_path: Path, value: float) -> None:
    one = make(
        spot_ids=["a"], xy_px=[[300.0, 300.0]], mean=np.full((1, 3), value), sd=np.zeros((1, 3)), thumbnail=None,
        thumbnail_scale=None,
    )  # fmt: skip
    gene_maps(one, ["ERBB2"], tmp_path / "map.png", truth=np.zeros(1, dtype=np.float32), dpi=DPI)
    assert pixels(tmp_path / "map.png").std() > 1


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
    with pytest.raises(InputError, match=r"is a \.png, \.pdf or \.svg file, got 'map.jpg'"):
        gene_maps(make(), ["ERBB2"], tmp_path / "map.jpg")
    with pytest.raises(InputError, match="does not exist"):
        gene_maps(make(), ["ERBB2"], tmp_path / "no" / "map.png")
    for genes in ([], ["ERBB2"] * 41):
        with pytest.raises(InputError, match=f"shows 1 to 40 genes, got {len(genes)}"):
            gene_maps(make(), genes, tmp_path / "new.png")
    with pytest.raises(InputError, match="would be 72,000 px long, 65,535 is the limit"):
        save_figure(new_figure(1, 60), tmp_path / "new.png", dpi=1200)
    (tmp_path / "map.png").write_text("mine")
    with pytest.raises(ExistsAlreadyError, match="--force"):
        gene_maps(make(), ["ERBB2"], tmp_path / "map.png")
    assert (tmp_path / "map.png").read_text() == "mine"
    gene_maps(make(), ["ERBB2"], tmp_path / "map.png", force=True, dpi=DPI)
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_drawing_leaves_matplotlib_s_settings_alone(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    gene_maps(make(), ["ERBB2"], tmp_path / "map.png", dpi=DPI)
    assert dict(mpl.rcParams) == before
