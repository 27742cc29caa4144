"""The HER2+ layout: what is joined, labelled and said."""

import gzip
import shutil

import numpy as np
import pytest
from layouts import (
    COL,
    COUNTS,
    GENES,
    ROW,
    XY,
    N,
    legacy_ids,
    make_her2st,
    save_counts_tsv,
    selection,
)

from mclstexp.data.readers import read_slides
from mclstexp.errors import InputError, MclstexpWarning


def test_her2st_layout(tmp_path):
    a1, a2, b1 = read_slides(make_her2st(tmp_path))
    assert [(s.slide_id, s.patient, s.cohort, s.layout) for s in (a1, a2, b1)] == [
        ("A1", "A", "her2st", "her2st"), ("A2", "A", "her2st", "her2st"), ("B1", "B", "her2st", "her2st"),
    ]  # fmt: skip
    assert a1.image is not None
    assert a1.image.size_px == (400, 300)
    assert a2.image is None
    assert any("no image" in note for note in a2.notes)
    assert (a1.mpp, a1.mpp_source) == (pytest.approx(200 / 60), "pitch")  # the 98 dpi of the JPEG are no pixel size
    assert a1.spots.spot_ids.tolist() == legacy_ids()
    np.testing.assert_array_equal(a1.spots.counts.toarray(), COUNTS)
    assert a1.spots.genes.symbols == tuple(GENES)
    np.testing.assert_array_equal(a1.spots.xy_px, XY)
    assert (a1.spots.array_col.tolist(), a1.spots.array_row.tolist()) == (COL.tolist(), ROW.tolist())


def test_slides_without_an_image_can_be_left_out_before_they_are_read(tmp_path):
    """Counts that cannot be read are not met: only the names of files are looked at."""
    root = make_her2st(tmp_path)
    for path in (root / "ST-cnts").glob("A2.tsv*"):
        path.write_bytes(b"no counts")
    with pytest.warns(MclstexpWarning, match=r"[12] of 3 slides have no image and are left out, unread: A2"):
        read = read_slides(root, pictured=True)
    assert "A1" in [slide.slide_id for slide in read]
    assert all(slide.image is not None for slide in read)
    for folder in (root / "ST-imgs").glob("*/*"):
        shutil.rmtree(folder)
    with pytest.raises(InputError, match="A2"):
        read_slides(root, pictured=True)  # none has one: whoever needs one says so


def test_her2st_joins_inner_and_says_what_it_dropped(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    save_counts_tsv(tmp_path / "ST-cnts" / "A1.tsv.gz", ["99x99", *legacy_ids()[1:]])
    (tmp_path / "ST-spotfiles" / "A1_selection.tsv").write_text(selection(skip=[5, 6]))
    (slide,) = read_slides(tmp_path)
    kept = [i for i in range(1, N) if i not in (5, 6)]
    assert slide.spots.spot_ids.tolist() == [legacy_ids()[i] for i in kept]
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS[kept])
    np.testing.assert_array_equal(slide.spots.xy_px, XY[kept])
    assert "3 of 12 spots have counts but no coordinates and were dropped." in slide.notes
    assert "1 of 10 spots have coordinates but no counts and were dropped." in slide.notes


def test_her2st_labels_join_by_array_coordinates(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    folder = tmp_path / "ST-pat" / "lbl"
    folder.mkdir(parents=True)
    rows = "r1\t1.02\t0.98\t7\t7\tinvasive cancer\nr2\tNA\tNA\tNA\tNA\timmune\nr3\t2\t2\t8\t8\tundetermined\n"
    (folder / "A1_labeled_coordinates.tsv").write_text("Row.names\tx\ty\tpixel_x\tpixel_y\tlabel\n" + rows)
    (slide,) = read_slides(tmp_path)
    labels = dict(zip(slide.spots.spot_ids.tolist(), slide.spots.labels.tolist(), strict=True))
    assert labels["1x1"] == "invasive cancer"
    assert labels["2x2"] == ""  # undetermined is no label
    assert sum(map(bool, labels.values())) == 1
    assert slide.extra["labels"] == "the pathologist's (ST-pat)"
    assert any("the pathologist's (ST-pat)" in note for note in slide.notes)


def save_clusters(root, name, rows, *, packed=True):
    """Columns as published; the pixels are of another frame and must not matter."""
    folder = root / "ST-cluster" / "lbl"
    folder.mkdir(parents=True, exist_ok=True)
    header = "\tpatient_id\tids\tlabel\tx\ty\tpixel_x\tpixel_y\twarped_x\twarped_y"
    lines = [f"9x9\t{name[0]}\t{name}\t{label}\t{x}\t{y}\t9\t9\t9\t9" for x, y, label in rows]
    data = "\n".join([header, *lines, ""]).encode()
    path = folder / f"{name}-cluster-annotation.tsv{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_her2st_clusters_are_the_labels_where_no_pathologist_gave_any(tmp_path, packed):
    make_her2st(tmp_path, names=("A1", "A2", "B1"), with_image=())
    rows = [(x, y, (x + y) % 3) for x, y in zip(COL[1:], ROW[1:], strict=True)]
    for name in ("A1", "A2"):
        path = save_clusters(tmp_path, name, [*rows, (77, 77, 5)], packed=packed)
    folder = tmp_path / "ST-pat" / "lbl"
    folder.mkdir(parents=True)
    (folder / "A1_labeled_coordinates.tsv").write_text("x\ty\tlabel\n1\t1\timmune\n")
    a1, a2, b1 = read_slides(tmp_path)
    assert a2.spots.labels.tolist() == ["", *(str((x + y) % 3) for x, y in zip(COL[1:], ROW[1:], strict=True))]
    assert path in a2.sources
    assert any("published clusters" in note for note in a2.notes)
    assert set(a1.spots.labels.tolist()) == {"", "immune"}
    assert b1.spots.labels is None
    assert "labels" not in b1.extra


def test_her2st_cluster_file_without_its_columns_is_named(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    folder = tmp_path / "ST-cluster" / "lbl"
    folder.mkdir(parents=True)
    (folder / "A1-cluster-annotation.tsv").write_text("spot\tcluster\n1x1\t3\n")
    with pytest.raises(InputError, match=r"A1-cluster-annotation\.tsv has no column 'label'"):
        read_slides(tmp_path)


def test_given_pixel_size_wins_and_a_difference_is_said(tmp_path):
    slide = read_slides(make_her2st(tmp_path, names=("A1",)), mpp=3.0)[0]
    assert (slide.mpp, slide.mpp_source) == (3.0, "given")
    assert any("the distance between spots says 3.333 um" in note for note in slide.notes)
