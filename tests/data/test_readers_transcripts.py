"""Xenium and other tables of transcripts: every molecule counted once, in the square that it lies in."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import ALIGNMENT, COUNTS, GENES, MOLECULES, XY, N, fails, save_image, save_xenium

from mclstexp.data.readers import molecules, read_slides
from mclstexp.data.readers.molecules import KNOWN, pool_molecules
from mclstexp.errors import InputError

XENIUM = KNOWN[1]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_xenium_pooled_over_squares_of_the_aligned_image(tmp_path, kind):
    save_xenium(tmp_path / "X1" / "outs", molecules=kind)
    (slide,) = read_slides(tmp_path)
    assert (slide.slide_id, slide.layout, slide.pitch_um) == ("X1", "xenium", 100)
    assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.5), "file")
    assert slide.image.path.name == "S_he_image.ome.tif"
    assert slide.spots.genes.symbols == tuple(GENES)
    assert slide.spots.genes.ensembl[1] == "ENSG00000000001"
    # each molecule's own way to the image: morphology pixels, then back through the alignment
    good = MOLECULES[(MOLECULES["qv"] >= 20) & ~MOLECULES["feature_name"].str.startswith("Neg")]
    morphology = good[["x_location", "y_location"]].to_numpy() / 0.25
    px = np.linalg.solve(ALIGNMENT, np.column_stack([morphology, np.ones(len(good))]).T).T[:, :2]
    middles = np.floor(px / 200) * 200 + 100
    expected = {}
    for middle, gene in zip(middles, good["feature_name"], strict=True):
        expected.setdefault(tuple(middle), dict.fromkeys(GENES, 0))[gene] += 1
    spots = zip(slide.spots.xy_px, slide.spots.counts.toarray(), strict=True)
    assert {tuple(xy): dict(zip(GENES, counts, strict=True)) for xy, counts in spots} == expected
    for note in (
        "5 transcripts pooled over squares of 100 um, a spot each.",
        "1 of 7 transcripts are of a quality below 20 and were left out.",
        "1 of 7 transcripts are of control probes and were left out.",
    ):
        assert note in slide.notes


def test_xenium_without_an_image_keeps_the_morphology_frame(tmp_path):
    save_xenium(tmp_path / "X1", aligned=False)
    (slide,) = read_slides(tmp_path)
    assert (slide.image, slide.mpp, len(slide)) == (None, 0.25, 3)
    assert dict(zip(slide.spots.spot_ids.tolist(), slide.spots.counts.toarray().tolist(), strict=True)) == {
        "0x0": [2, 1, 0, 0], "1x0": [1, 0, 0, 0], "3x4": [0, 0, 1, 0],
    }  # fmt: skip
    assert slide.spots.xy_px[0].tolist() == [200.0, 200.0]
    assert any("no H&E" in note for note in slide.notes)
    save_image(tmp_path / "X1" / "S_he_image.tif")
    assert any("the H&E has no alignment beside it" in note for note in read_slides(tmp_path)[0].notes)


def test_xenium_cells_and_pools_of_them(tmp_path):
    save_xenium(tmp_path / "X1", aligned=False)
    (slide,) = read_slides(tmp_path, cells=True)
    assert len(slide) == N
    np.testing.assert_allclose(slide.spots.xy_px, XY / 0.25)
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS)
    cells = tmp_path / "X1" / "cells.parquet"
    pd.read_parquet(cells).to_csv(tmp_path / "X1" / "cells.csv.gz", index=False)
    whole = cells.read_bytes()
    cells.unlink()
    np.testing.assert_array_equal(read_slides(tmp_path, cells=True)[0].spots.xy_px, slide.spots.xy_px)
    cells.write_bytes(whole[:200])
    fails(tmp_path, "cells.parquet is damaged", cells=True)
    cells.write_bytes(whole)
    (pooled,) = read_slides(tmp_path, cells=True, pool_um=500)
    assert (len(pooled), pooled.spots.counts.sum()) == (1, COUNTS.sum())
    (tmp_path / "X1" / "transcripts.parquet").unlink()
    (slide,) = read_slides(tmp_path)
    assert (slide.pitch_um, slide.spots.counts.sum()) == (100, COUNTS.sum())


def _broken(name):
    def text(file, content):
        return lambda outs: (outs / file).write_text(content)

    def cut(file):
        return lambda outs: (outs / file).write_bytes((outs / file).read_bytes()[:300])

    def rewritten(change):
        return lambda outs: change(MOLECULES.copy()).to_parquet(outs / "transcripts.parquet")

    return {
        "manifest": (text("experiment.xenium", "{"), "experiment.xenium is damaged"),
        "pixel size": (text("experiment.xenium", '{"pixel_size": 0}'), "says pixel_size 0"),
        "no pixel size": (text("experiment.xenium", "{}"), "experiment.xenium is damaged.*pixel_size"),
        "alignment": (text("S_he_imagealignment.csv", "1,2\n3,4\n"), "holds no alignment"),
        "flat alignment": (text("S_he_imagealignment.csv", "0,0,1\n0,0,1\n0,0,1\n"), "holds no alignment"),
        "words": (text("S_he_imagealignment.csv", "a,b,c\n"), "imagealignment.csv is damaged"),
        "transcripts": (cut("transcripts.parquet"), "transcripts.parquet is damaged"),
        "columns": (rewritten(lambda f: f.rename(columns={"x_location": "x"})), "none of a table of transcripts"),
        "nan": (rewritten(lambda f: f.assign(x_location=np.nan)), "6 transcripts have NaN or infinite"),
        "all low": (rewritten(lambda f: f.assign(qv=1.0)), "holds no transcripts of genes: 7 rows, 7 of low quality"),
        "far": (rewritten(lambda f: f.assign(x_location=1e12)), "a million squares apart"),
        "matrix": (cut("cell_feature_matrix.h5"), "cell_feature_matrix.h5 is damaged"),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["manifest", "pixel size", "no pixel size", "alignment", "flat alignment", "words", "transcripts", "columns", "nan",
     "all low", "far", "matrix"],
)  # fmt: skip
def test_xenium_that_is_wrong_is_one_line(tmp_path, name):
    change, match = _broken(name)
    change(save_xenium(tmp_path / "X1"))
    fails(tmp_path, match)


def test_xenium_cells_that_are_wrong(tmp_path):
    outs = save_xenium(tmp_path / "X1", aligned=False)
    cells = pd.read_parquet(outs / "cells.parquet")
    cells.drop(columns="x_centroid").to_parquet(outs / "cells.parquet")
    fails(tmp_path, "no column 'x_centroid'", cells=True)
    cells.assign(cell_id="c" + cells["cell_id"]).to_parquet(outs / "cells.parquet")
    fails(tmp_path, "share no spot", cells=True)
    (outs / "cells.parquet").unlink()
    fails(tmp_path, "holds neither transcripts.parquet nor cells.parquet with cell_feature_matrix.h5", cells=True)


def _renamed(columns):
    names = {"x_location": columns.x, "y_location": columns.y, "feature_name": columns.gene}
    return MOLECULES.drop(columns="qv").rename(columns=names)


@pytest.mark.parametrize("columns", [columns for columns in KNOWN if columns is not XENIUM], ids=lambda c: c.x)
def test_other_tables_of_transcripts(tmp_path, columns):
    folder = tmp_path / "S7"
    folder.mkdir()
    name = {"global_x": "detected_transcripts.csv", "x_global_px": "S7_tx_file.csv.gz"}.get(
        columns.x, "S7_transcripts.csv"
    )
    _renamed(columns).to_csv(folder / name, index=False)
    if columns.units == "px":
        fails(tmp_path, r"needs the pixel size of its image; give it with --mpp")
    (slide,) = read_slides(tmp_path, mpp=0.5)
    assert (slide.slide_id, slide.layout, slide.mpp) == ("S7", "transcripts", 0.5)
    assert slide.spots.counts.sum() == 6  # no qualities here, and one control
    side = 200 if columns.units == "px" else 100
    own = MOLECULES[~MOLECULES["feature_name"].str.startswith("Neg")][["x_location", "y_location"]] // side
    assert set(slide.spots.spot_ids.tolist()) == {f"{int(x)}x{int(y)}" for x, y in own.to_numpy()}
    with pytest.raises(InputError, match="--cells is for slides of the layouts"):
        read_slides(tmp_path, mpp=0.5, cells=True)


def test_a_table_takes_the_pixel_size_of_the_image_named_like_it(tmp_path):
    _renamed(KNOWN[-1]).to_csv(tmp_path / "S7_transcripts.csv", index=False)
    save_image(tmp_path / "S7.tif", (700, 700), resolution=(10_000, 10_000), resolutionunit="CENTIMETER")
    (slide,) = read_slides(tmp_path / "S7_transcripts.csv", pool_um=50)
    assert (slide.mpp, slide.pitch_um, slide.image.path.name) == (1.0, 50, "S7.tif")


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(-500, 500), st.floats(-500, 500), st.sampled_from(GENES)), min_size=1, max_size=60
    ),
    side=st.floats(7, 300),
    merged_at=st.sampled_from([1, 2**22]),
)
def test_every_molecule_is_counted_once_where_it_lies(tmp_path_factory, rows, side, merged_at):
    path = tmp_path_factory.mktemp("molecules") / "transcripts.parquet"
    pd.DataFrame(rows, columns=["x", "y", "gene"]).to_parquet(path, row_group_size=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(molecules, "_MERGED_AT", merged_at)
        patch.setattr(molecules, "_BATCH_ROWS", 7)
        pooled = pool_molecules(path, KNOWN[-1], side, lambda xy: xy)
    expected = {}
    for x, y, gene in rows:
        key = f"{int(np.floor(x / side))}x{int(np.floor(y / side))}", gene
        expected[key] = expected.get(key, 0) + 1
    cells = pooled.counts.tocoo()
    found = {(pooled.names[i], pooled.genes[j]): v for i, j, v in zip(cells.row, cells.col, cells.data, strict=True)}
    assert found == expected


def test_the_manifest_alone_makes_a_xenium_folder(tmp_path):
    (tmp_path / "experiment.xenium").write_text(json.dumps({"pixel_size": 0.2125}))
    fails(tmp_path, "holds neither transcripts.parquet")
