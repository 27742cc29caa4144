"""The layouts that publishers and instruments write, damaged; options that choose among them; folders of slides."""

from __future__ import annotations

from hostile.entry import EITHER, NOT_ACCEPTED, USAGE, Entry, Spoil
from hostile.table.base import QUERY
from hostile.table.files import Kind

DAMAGES = ("cut:0.5", "random", "folder", "pipe")
OF_TEXT, OF_BINARY = ("nul", "header"), ("flip:0", "flip:1")
BINS = "binned_outputs/square_016um"

KINDS = (
    Kind("hd counts", "hd", ("check", "{i}/hd"), f"{BINS}/filtered_feature_bc_matrix.h5"),
    Kind("hd positions", "hd", ("check", "{i}/hd"), f"{BINS}/spatial/tissue_positions.parquet"),
    Kind("hd scale factors", "hd", ("check", "{i}/hd"), f"{BINS}/spatial/scalefactors_json.json", text=True),
    Kind("hd cells", "hd", ("check", "{i}/hd", "--cells"), "segmented_outputs/cell_segmentations.geojson", text=True),
    Kind("hest table", "hest", ("check", "{i}/hest"), "HEST_v1_1_0.csv", text=True),
    Kind("hest sample", "hest", ("check", "{i}/hest"), "st/TENX1.h5ad"),
    Kind("cscc counts", "cscc", ("check", "{i}/cscc"), "GSM1_P2_ST_rep1_stdata.tsv.gz"),
    Kind("cscc selection", "cscc", ("check", "{i}/cscc"), "GSM1_spot_data-selection-P2_ST_rep1.tsv.gz"),
    Kind("wu symbols", "wu", ("check", "{i}/wu"), "filtered_count_matrices/*/features.tsv", text=True),
    Kind("wu metadata", "wu", ("check", "{i}/wu"), "metadata/1142243F_metadata.csv", text=True),
    Kind("xenium manifest", "xenium", ("check", "{i}/xenium"), "experiment.xenium", text=True),
    Kind("xenium transcripts", "xenium", ("check", "{i}/xenium"), "transcripts.parquet"),
    Kind("xenium alignment", "xenium", ("check", "{i}/xenium"), "S_he_imagealignment.csv", text=True),
    Kind("xenium cells", "xenium", ("check", "{i}/xenium", "--cells"), "cells.parquet"),
    Kind("transcripts", "molecules", ("check", "{i}/molecules", "--mpp", "0.5"), "S_transcripts.csv", text=True),
    Kind("spatialdata root", "store", ("check", "{i}/store"), "S.zarr/zarr.json", text=True),
)


def _damaged(kind: Kind) -> list[Entry]:
    return [
        Entry(f"{kind.name}: {damage}", kind.command, (Spoil(kind.copy, damage, kind.file),), EITHER, always=False)
        for damage in (*DAMAGES, *(OF_TEXT if kind.text else OF_BINARY))
    ]


def layout(
    name: str, copy: str, file: str, damage: str, *names: str, more: tuple[str, ...] = (), expected: str = NOT_ACCEPTED
) -> Entry:
    """Return an entry of one damage that is peculiar to a layout."""
    return Entry(name, ("check", f"{{i}}/{copy}", *more), (Spoil(copy, damage, file),), expected, names, always=False)


MOLECULES, MANIFEST = "S_transcripts.csv", "experiment.xenium"
PECULIAR = [
    layout("hd of a bin size of nought", "hd", f"{BINS}/spatial/scalefactors_json.json",
           'replace:"microns_per_pixel": 0.5=>"microns_per_pixel": 0', expected=EITHER),
    layout("hd of a pixel size of a word", "hd", f"{BINS}/spatial/scalefactors_json.json",
           'replace:"microns_per_pixel": 0.5=>"microns_per_pixel": "half"', expected=EITHER),
    layout("hd outlines of two points", "hd", "segmented_outputs/cell_segmentations.geojson",
           'text:{"features": [{"properties": {"cell_id": 1}, "geometry": {"type": "Polygon", "coordinates": '
           "[[[1, 1], [2, 2]]]}}]}", more=("--cells",), expected=EITHER),
    layout("hd outlines of nan", "hd", "segmented_outputs/cell_segmentations.geojson",
           'text:{"features": [{"properties": {"cell_id": 1}, "geometry": {"type": "Polygon", "coordinates": '
           "[[[NaN, 1], [2, 2], [3, 1]]]}}]}", more=("--cells",)),
    layout("hest of a path for a name", "hest", "HEST_v1_1_0.csv", "replace:TENX1=>../../x", expected=EITHER),
    layout("hest of a spacing of words", "hest", "HEST_v1_1_0.csv", "replace:,100,=>,wide,", expected=EITHER),
    layout("xenium of a pixel size of nought", "xenium", MANIFEST, 'replace:0.25=>0'),
    layout("xenium of a pixel size of a word", "xenium", MANIFEST, 'replace:0.25=>"quarter"'),
    layout("xenium of a nested manifest", "xenium", MANIFEST, "deep"),
    layout("xenium of a flat alignment", "xenium", "S_he_imagealignment.csv", "text:0,0,0\\n0,0,0\\n0,0,1\\n"),
    layout("xenium of an alignment of nan", "xenium", "S_he_imagealignment.csv", "text:nan,0,0\\n0,1,0\\n0,0,1\\n"),
    layout("transcripts at nan", "molecules", MOLECULES, "line:nan,5,ERBB2,40", more=("--mpp", "0.5"), expected=EITHER),
    layout("transcripts at 1e300", "molecules", MOLECULES, "line:1e300,5,ERBB2,40", more=("--mpp", "0.5")),
    layout("transcripts at words", "molecules", MOLECULES, "line:here,5,ERBB2,40", more=("--mpp", "0.5")),
    layout("transcripts without genes", "molecules", MOLECULES, "replace:feature_name=>colour", more=("--mpp", "0.5")),
    layout("transcripts of a header alone", "molecules", MOLECULES, "header", more=("--mpp", "0.5")),
    layout("transcripts without a pixel size", "molecules", MOLECULES, "none", expected=EITHER),
    layout("spatialdata of nothing else", "store", "S.zarr/zarr.json", "none"),
    layout("spatialdata of a list", "store", "S.zarr/zarr.json", "text:[]"),
    layout("spatialdata nested too deep", "store", "S.zarr/zarr.json", "deep"),
]  # fmt: skip

CHOICES = [
    *(Entry(f"check hd --bin-um {value}", ("check", "{w}/hd", "--bin-um", value), (), NOT_ACCEPTED, always=False)
      for value in ("0", "-8", "5", "8.5", "eight", "2", "1e99")),
    *(Entry(f"check hd --pool-um {value}", ("check", "{w}/hd", "--pool-um", value), (), NOT_ACCEPTED, always=False)
      for value in ("0", "-50", "nan", "inf", "1", "1e9", "wide")),
    *(Entry(f"check refs {option}", ("check", "{w}/refs", option, *value), (), EITHER, always=False)
      for option, *value in (("--cells",), ("--bin-um", "8"), ("--pool-um", "50"))),
    Entry("check transcripts --cells", ("check", "{w}/molecules", "--cells", "--mpp", "0.5"), (), names=("--cells",),
          always=False),
    *(Entry(f"check refs --mpp-from {value}", ("check", "{w}/refs", "--mpp-from", value), (), USAGE,
            ("--mpp-from",), always=value == "guess") for value in ("guess", "", "File")),
    Entry("check her2st --mpp-from given", ("check", "{w}/her2st", "--mpp-from", "given"), (), names=("--mpp-from",)),
    *(Entry(f"slides.csv with {column} of {value!r}", ("check", "{i}/refs"),
            (Spoil("refs", f"text:slide,counts,{column}\\nP1_A,P1_A.h5ad,{value}\\n", "slides.csv"),), EITHER if
            value in ("nan", "inf") else "refused", (column[:3],),
            always=(column, value) == ("bin_um", "8"))
      for column in ("bin_um", "pool_um") for value in ("0", "-8", "2.5", "word", "nan", "inf", "1e99", "8")
      if (column, value) not in (("pool_um", "8"), ("pool_um", "2.5"))),
]  # fmt: skip

AT_GRID = ("query", "{w}/slide.tif", *QUERY[3:])
RING = '{"type": "Polygon", "coordinates": [[[20, 20], [560, 20], [560, 560], [20, 20]]]}'
REGIONS = [
    *(Entry(f"query --grid {value!r}", (*AT_GRID, "--grid", value), (), NOT_ACCEPTED, always=False)
      for value in ("nan um", "1e-9um", "um", "100um;100um")),
    *(Entry(f"query --regions {name}", (*AT_GRID, "--grid", "90um", "--regions", "{i}/regions.geojson"),
            (Spoil("regions.geojson", damage),), expected, always=False)
      for name, damage, expected in (
          ("far away", "text:" + RING.replace("20", "90020").replace("560", "95000"), "refused"),
          ("of a point", 'text:{"type": "Point", "coordinates": [3, 3]}', "refused"),
          ("of two points", 'text:{"type": "Polygon", "coordinates": [[[1, 1], [2, 2]]]}', "refused"),
          ("of nan", "text:" + RING.replace("560", "NaN"), "refused"),
          ("of 1e308", "text:" + RING.replace("560", "1e308"), EITHER),
          ("of words", "text:" + RING.replace("560", '"far"'), "refused"),
          ("of no features", 'text:{"type": "FeatureCollection", "features": []}', "refused"),
          ("of null", 'text:{"type": "Feature", "geometry": null}', "refused"),
          ("of a bow tie", 'text:{"type": "Polygon", "coordinates": [[[0, 0], [560, 560], [560, 0], [0, 560]]]}',
           EITHER),
          ("nested too deep", "deep", "refused"))),
]  # fmt: skip

SEVERAL = ("query", "{i}/slides", *QUERY[3:-4], "-o", "{o}")
FOLDERS = [
    Entry(
        f"a folder of slides with {name}",
        SEVERAL,
        (Spoil("slides", damage, file),),
        EITHER,
        names,
        always=False,
        keeps=True,
    )
    for name, file, damage, names in (
        ("an image of noise", "a.tif", "random", ("a",)),
        ("an image cut", "a.tif", "cut:0.5", ("a",)),
        ("an image that is a pipe", "a.tif", "pipe", ()),
        ("an image that is a loop", "a.tif", "loop", ()),
        ("coordinates of noise", "a.csv", "random", ("a",)),
        ("empty coordinates", "a.csv", "empty", ("a",)),
        ("coordinates out of the image", "a.csv", "text:id,x,y\\na,9000,10\\nb,9080,10\\n", ("a",)),
    )
]

ENTRIES = [*(entry for kind in KINDS for entry in _damaged(kind)), *PECULIAR, *CHOICES, *REGIONS, *FOLDERS]
