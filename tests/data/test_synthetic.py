"""The simulated cohort: what is on disk, that it is the same each time, and that pictures foretell counts."""

import csv
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import sparse
from worlds import tiny_slides

from mclstexp.data.images import open_image
from mclstexp.data.synthetic import CohortPaths, SlideSpec, simulate_slide, write_cohort
from mclstexp.data.synthetic.cohort import write_pyramid
from mclstexp.data.synthetic.slides import gene_panel
from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.slide import SpotTable

SMALL = SlideSpec(n_genes=60, side_px=1024, pitch_um=60.0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    seen: list[tuple[str, int, int]] = []
    folder = tmp_path_factory.mktemp("synthetic") / "cohort"
    paths = write_cohort(
        folder, n_patients=2, slides_per_patient=2, spec=SMALL, on_progress=lambda *args: seen.append(args)
    )
    assert seen == [("simulating slides", i, 5) for i in range(1, 6)]
    return paths


def dense(spots: SpotTable) -> NDArray[np.float32]:
    assert spots.counts is not None
    return np.asarray(spots.counts.todense(), dtype=np.float32)


def test_everything_named_is_there(cohort: CohortPaths) -> None:
    with cohort.slides_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] == list(cohort.slides) == ["P1_A", "P1_B", "P2_A", "P2_B"]
    assert [row["patient"] for row in rows] == ["P1", "P1", "P2", "P2"]
    for row in rows:
        assert (cohort.refs / row["counts"]).is_file()
        assert (cohort.refs / row["image"]).is_file()
    assert cohort.query_slide.startswith("P3")
    assert cohort.query_image.is_file()
    assert list(cohort.root.parent.iterdir()) == [cohort.root]


def test_counts_are_what_scanpy_users_have(cohort: CohortPaths) -> None:
    adata = ad.read_h5ad(cohort.refs / "P1_A.h5ad")
    assert sparse.issparse(adata.X)
    assert np.all(adata.X.data == np.floor(adata.X.data))
    assert adata.X.data.min() >= 0
    assert {"ERBB2", "CD3E", "EPCAM", "COL1A1"} <= set(adata.var_names)
    assert adata.var["gene_ids"].str.fullmatch(r"ENSG\d{11}").all()
    assert set(adata.obs["patient"]) == {"P1"}
    assert adata.obsm["spatial"].shape == (adata.n_obs, 2)
    assert ((adata.obsm["spatial"] >= 0) & (adata.obsm["spatial"] < SMALL.side_px)).all()


def test_query_has_the_spots_of_the_truth(cohort: CohortPaths) -> None:
    truth = ad.read_h5ad(cohort.query_truth)
    with cohort.query_coords.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(truth.obs_names)
    xy = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    np.testing.assert_allclose(xy, truth.obsm["spatial"], atol=0.005)


def test_image_is_a_tiled_pyramid_with_its_pixel_size(cohort: CohortPaths) -> None:
    with tifffile.TiffFile(cohort.query_image) as tiff:
        assert [level.shape[:2] for level in tiff.series[0].levels] == [(1024, 1024), (512, 512)]
        assert all(page.is_tiled for page in tiff.pages)
    image = open_image(cohort.query_image)
    assert image.size_px == (1024, 1024)
    assert image.mpp == pytest.approx(0.5)
    rgb = image.read_region(0, 0, 1024, 1024).astype(float)
    assert np.percentile(rgb, 99.5) > 225  # glass
    tissue = rgb[rgb.mean(axis=2) < 200]
    assert (tissue[:, 1] < tissue[:, [0, 2]].min(axis=1)).mean() > 0.9  # pink and purple: green is the least


def test_the_same_arguments_give_the_same_files(cohort: CohortPaths, tmp_path: Path) -> None:
    again = write_cohort(tmp_path / "again", n_patients=1, slides_per_patient=1, spec=SMALL)
    assert (again.refs / "P1_A.tif").read_bytes() == (cohort.refs / "P1_A.tif").read_bytes()
    assert (again.refs / "P1_A.h5ad").read_bytes() == (cohort.refs / "P1_A.h5ad").read_bytes()


def test_seed_patient_and_slide_each_matter() -> None:
    spec = SlideSpec(n_genes=30, side_px=512, mpp=1.0, pitch_um=60.0)
    base = simulate_slide(spec)
    for other in (simulate_slide(spec, seed=1), simulate_slide(spec, patient=1), simulate_slide(spec, slide=1)):
        assert not np.array_equal(base.image, other.image)
    np.testing.assert_array_equal(base.image, simulate_slide(spec).image)


@pytest.mark.parametrize(("grid", "neighbours"), [("hex", 6), ("square", 4)])
def test_spots_lie_at_the_pitch(grid: str, neighbours: int) -> None:
    spec = SlideSpec(n_genes=6, side_px=600, mpp=1.0, pitch_um=50.0, spot_um=25.0, grid=grid, margin=False)  # type: ignore[arg-type]
    xy = simulate_slide(spec).spots.xy_px
    distances = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(distances.min(axis=1), 50.0)
    assert np.isclose(distances, 50.0).sum(axis=1).max() == neighbours


def test_array_coordinates_follow_pixels() -> None:
    spots = simulate_slide(SlideSpec(n_genes=6, side_px=1024, mpp=1.0)).spots
    np.testing.assert_allclose(spots.xy_px[:, 0] - spots.array_col * 50.0, 50.0)
    assert np.all((spots.array_row + spots.array_col) % 2 == 0)  # Visium's numbering


def test_spots_are_on_tissue() -> None:
    made = simulate_slide(SlideSpec(n_genes=6, side_px=1400, mpp=1.0))
    assert 30 < len(made.spots) < 13 * 16  # some of the grid lies beside the tissue
    corners = made.image[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 225


def test_colour_foretells_expression_in_another_patient() -> None:
    """The mean and spread of colour, by least squares, must already tell; patches hold more."""
    spec = SlideSpec(n_genes=60, side_px=1400, mpp=1.0, pitch_um=80.0)
    slides = [simulate_slide(spec, patient=patient) for patient in range(4)]
    features, expression = [], []
    for made in slides:
        cut = [made.image[max(0, y - 40) : y + 40, max(0, x - 40) : x + 40] for x, y in made.spots.xy_px.astype(int)]
        features.append(np.array([[*patch.mean((0, 1)), *patch.std((0, 1)), 1.0] for patch in cut]))
        counts = dense(made.spots)
        expression.append(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)))
    weights = np.linalg.lstsq(np.concatenate(features[:3]), np.concatenate(expression[:3]), rcond=None)[0]
    predicted, position = features[3] @ weights, gene_panel(60).position
    for gene in ("EPCAM", "COL1A1", "CD3E"):
        column = position[gene]
        pcc = np.corrcoef(predicted[:, column], expression[3][:, column])[0, 1]
        assert 0.25 < pcc < 0.97, (gene, pcc)  # there to be learnt, and not given away


def test_gene_panel_grows_without_changing_order() -> None:
    assert gene_panel(400).symbols[:50] == gene_panel(50).symbols
    assert len(gene_panel(400)) == 400


def test_an_existing_folder_is_refused_and_left_alone(cohort: CohortPaths) -> None:
    before = sorted(cohort.root.rglob("*"))
    with pytest.raises(ExistsAlreadyError, match="not empty"):
        write_cohort(cohort.root, spec=SMALL)
    assert sorted(cohort.root.rglob("*")) == before


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_cohort(tmp_path / "no" / "where")
    with pytest.raises(InputError, match="patients"):
        write_cohort(tmp_path / "cohort", n_patients=0)


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "cohort", spec=SMALL, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_pyramid_of_an_odd_size(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (701, 1203, 3), dtype=np.uint8)
    write_pyramid(image, tmp_path / "odd.tif", mpp=0.25)
    opened = open_image(tmp_path / "odd.tif")
    assert opened.size_px == (1203, 701)
    assert opened.mpp == pytest.approx(0.25)


def test_tiny_slides(tmp_path: Path) -> None:
    slides = tiny_slides(tmp_path, 4, n_spots=20, n_genes=25, per_patient=2)
    assert [slide.slide_id for slide in slides] == ["P1_A", "P1_B", "P2_A", "P2_B"]
    assert [slide.patient for slide in slides] == ["P1", "P1", "P2", "P2"]
    for slide in slides:
        assert slide.spots.counts is not None
        assert slide.spots.counts.shape == (20, 25)
        assert slide.image is not None
        width, height = slide.image.size_px
        assert (slide.spots.xy_px < [width, height]).all()
        assert slide.image.mpp == slide.mpp
