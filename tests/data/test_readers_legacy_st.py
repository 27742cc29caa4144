"""Legacy ST with alignment tables: which spots are taken, the pixel size of both arrays, counts either way round."""

import numpy as np
import pandas as pd
import pytest
from layouts import COL, COUNTS, GENES, ROW, XY, N, fails, legacy_ids, save_counts_tsv, save_image, selection

from mclstexp.data.readers import read_slides
from mclstexp.panel import GenePanel

IDS = [f"ENSMUSG{i:011d}.{i + 1}" for i in range(len(GENES))]


def make_section(root, name="MOB1", table=None, transposed=False):
    root.mkdir(parents=True, exist_ok=True)
    (root / f"alignment_table_{name}.tsv").write_text(selection() if table is None else table)
    if transposed:
        save_counts_tsv(root / f"{name}.tsv.gz", IDS, COUNTS.T, legacy_ids())
    else:
        save_counts_tsv(root / f"{name}.tsv.gz", legacy_ids(), genes=IDS)
    save_image(root / f"{name}.jpg")
    return root


@pytest.mark.parametrize("transposed", [False, True])
def test_a_section_is_read_either_way_round(tmp_path, transposed):
    make_section(tmp_path, transposed=transposed)
    (slide,) = read_slides(tmp_path)
    assert (slide.slide_id, slide.patient, slide.layout) == ("MOB1", "MOB", "legacy_st")
    assert slide.image is not None
    assert (slide.mpp, slide.mpp_source) == (pytest.approx(200 / 60), "pitch")
    assert slide.spots.spot_ids.tolist() == legacy_ids()
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS)
    np.testing.assert_array_equal(slide.spots.xy_px, XY)
    assert (slide.spots.array_col.tolist(), slide.spots.array_row.tolist()) == (COL.tolist(), ROW.tolist())
    panel = GenePanel(("Abc",), ("ENSMUSG00000000002",))
    assert slide.spots.genes.find("ENSMUSG00000000002") == 2
    assert panel.find("ENSMUSG00000000002.3") == 0


def test_only_spots_under_tissue_that_have_counts_are_taken(tmp_path):
    frame = pd.read_csv(pd.io.common.StringIO(selection()), sep="\t")
    frame.loc[[2, 7], "selected"] = 0
    frame.loc[3, "x"] = 99  # no counts
    make_section(tmp_path, table=frame.to_csv(sep="\t", index=False))
    (slide,) = read_slides(tmp_path)
    kept = [i for i in range(N) if i not in (2, 7, 3)]
    assert slide.spots.spot_ids.tolist() == [legacy_ids()[i] for i in kept]
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS[kept])
    assert "2 of 12 spots are not selected and were dropped." in slide.notes


def test_the_spots_of_a_2k_array_are_150_um_apart(tmp_path):
    row, col = (part.ravel() for part in np.mgrid[0:5, 0:5])
    kept = (row + col) % 2 == 0
    row, col = row[kept][:N], col[kept][:N]
    pixels = {"pixel_x": 80 + 30 * col, "pixel_y": 70 + 30 * row, "selected": 1}
    frame = pd.DataFrame({"x": col, "y": row, "new_x": col, "new_y": row, **pixels})
    make_section(tmp_path, table=frame.to_csv(sep="\t", index=False))
    save_counts_tsv(tmp_path / "MOB1.tsv.gz", [f"{c}x{r}" for c, r in zip(col, row, strict=True)])
    (slide,) = read_slides(tmp_path)
    assert slide.mpp == pytest.approx(150 / (30 * np.sqrt(2)))


def test_sections_of_one_mouse_are_one_patient(tmp_path):
    for name in ("MOB1", "MOB2", "7"):
        make_section(tmp_path, name)
    assert {slide.slide_id: slide.patient for slide in read_slides(tmp_path)} == {"MOB1": "MOB", "MOB2": "MOB", "7": ""}


def test_what_is_missing_is_one_line(tmp_path):
    make_section(tmp_path / "a")
    (tmp_path / "a" / "MOB1.tsv.gz").unlink()
    fails(tmp_path / "a", r"MOB1 has no counts: .*MOB1\.tsv\.gz does not exist")
    make_section(tmp_path / "b", table="x\ty\nselected\n")
    fails(tmp_path / "b", "alignment_table_MOB1")
    make_section(tmp_path / "c", table=selection().replace("pixel_x", "column"))
    fails(tmp_path / "c", r"alignment_table_MOB1\.tsv is no alignment table: .* pixel_x and pixel_y")


@pytest.mark.shared
def test_the_olfactory_bulb(shared):
    slides = read_slides(shared / "mob")
    facts = [(s.slide_id, s.patient, len(s), len(s.spots.genes)) for s in slides]
    assert facts == [("MOB1", "MOB", 379, 1000), ("MOB2", "MOB", 407, 1000)]
    assert [slide.mpp for slide in slides] == pytest.approx([4.63, 4.63], abs=0.03)
    assert slides[0].spots.genes.find("ENSMUSG00000064339") == 0
