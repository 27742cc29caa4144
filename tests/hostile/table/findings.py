"""What was tried as an attacker would before there was this table, each finding with its siblings."""

from __future__ import annotations

from hostile.entry import ACCEPTED, EITHER, REFUSED, USAGE, Entry, Spoil
from hostile.table.base import BASE, QUERY, QUICK_ENCODER

AT_COORDS = ("query", QUERY[1], "{i}/coords.csv", *QUERY[3:])
HEAD = "id,x,y\\n"
ARRAY = "id,array_row,array_col,x,y\\na,1,1,300,300\\n"
GRID = "".join(f"s{i},{160 + 80 * (i % 5)},{160 + 80 * (i // 5)}\\n" for i in range(20))


def coords(name: str, text: str, *names: str, expected: str = REFUSED, more: tuple[str, ...] = ()) -> Entry:
    """Return an entry whose coordinates are this text."""
    return Entry(
        f"coordinates {name}",
        (*AT_COORDS, *more),
        (Spoil("coords.csv", f"text:{text}"),),
        expected=expected,
        names=names,
    )


def line(name: str, text: str, *names: str, expected: str = REFUSED) -> Entry:
    """Return an entry whose coordinates have this line in place of the first spot's."""
    return Entry(
        f"coordinates with {name}",
        AT_COORDS,
        (Spoil("coords.csv", f"line:{text}"),),
        expected=expected,
        names=names,
    )


COORDINATES = [
    *(line(f"x of {value!r}", f"1x1,{value},200", "row 1", "coords.csv") for value in
      ("nan", "NaN", "", "inf", "-inf", "Infinity", "1e308", "-1e308", "1e9", "1e400", "NA", "null", "None")),
    *(line(f"x of {value!r}", f"1x1,{value},200", "coords.csv", "x") for value in
      ("left", "1,5", "1.2.3", "0x10", "1_000", "12px", "=1+1")),
    line("x of other digits", "1x1,١٦٠,218.56", expected=ACCEPTED),
    line("a y of nan", "1x1,200,nan", "row 1"),
    line("x out of the image", "1x1,5000,200"),
    line("x of -5", "1x1,-5,200"),
    line("an empty id", ",160,200", "empty id", "row 1"),
    line("an id of spaces", "   ,160,200", "empty id", "row 1"),
    line("an id twice", "1x3,160,200", "1x3"),
    line("too few cells", "1x1,160"),
    line("too many cells", "1x1,160,200,7"),
    line("an open quote", '"1x1,160,200', expected=EITHER),
    line("an id of 100,000 letters", "x" * 100_000 + ",160,218.56", expected=EITHER),
    line("an id that is a formula", "=cmd|'/c calc'!A0,160,218.56", expected=ACCEPTED),
    line("an id that is a path", "../../x,160,218.56", expected=ACCEPTED),
    line("an id with a tab", "a\\tb,160,218.56", expected=EITHER),
    coords("all at one point", HEAD + "".join(f"s{i},300,300\\n" for i in range(20)), "at one point", "coords.csv"),
    coords("at two points", HEAD + "".join(f"s{i},{300 + i % 2},300\\n" for i in range(20)), "coords.csv"),
    coords("of one spot", HEAD + "s,300,300\\n", expected=EITHER),
    coords("of two spots", HEAD + "s,300,300\\nt,380,300\\n", expected=EITHER),
    coords("on one line", HEAD + "".join(f"s{i},{100 + 20 * i},300\\n" for i in range(20)), expected=EITHER),
    coords("in array steps", HEAD + "".join(f"s{i},{i % 5},{i // 5}\\n" for i in range(20)), "array coordinates"),
    coords("without a header", GRID, "header"),
    coords("of a header alone", HEAD, "coords.csv"),
    coords("without y", "id,x\\na,1\\n", "coords.csv"),
    coords("of a column twice", "id,x,x,y\\na,1,1,1\\n", "coords.csv"),
    coords("of a BOM alone", "\\xef\\xbb\\xbf", "coords.csv"),
    coords("of blank lines", "\\n\\n\\n", "coords.csv"),
    coords("of semicolons", (HEAD + GRID).replace(",", ";"), expected=ACCEPTED),
    coords("of spaces", (HEAD + GRID).replace(",", " "), "coords.csv"),
    coords("in_tissue of words", "id,in_tissue,x,y\\na,perhaps,300,300\\nb,1,380,300\\n", "in_tissue"),
    coords("all off the tissue", "id,in_tissue,x,y\\na,0,300,300\\nb,0,380,300\\n", "coords.csv"),
    coords("with a huge array step", ARRAY + "b,99999999999999,2,380,300\\n", "row 2"),
    coords("with half an array step", ARRAY + "b,1.5,2,380,300\\n", expected=EITHER),
    coords("with one far away", HEAD + GRID + "far,9999999,300\\n"),
    coords("of corners", "id,xcoord,ycoord\\na,300,300\\nb,380,300\\n", "--origin"),
]  # fmt: skip

TRAINING = [
    *(Entry(f"train {option} {value}", (*BASE["train"], option, value), expected=USAGE, names=(option,))
      for option, value in (("--n-genes", "0"), ("--n-genes", "-5"), ("--epochs", "0"), ("--epochs", "-1"),
                            ("--lr", "0"), ("--lr", "1e30"), ("--lr", "nan"), ("--seed", "-1"),
                            ("--seed", "99999999999999999999"), ("--epochs", "5"), ("--lr", "0.1"))),
    *(Entry(f"train --set {text}", (*BASE["train"], "--set", text), expected=EITHER)
      for text in ("optim.epochs=5", "optim.lr=0.1", "network.heads=4")),
    Entry("train --genes with --n-genes", (*BASE["train"], "--genes", "{w}/genes.txt", "--n-genes", "3"),
          expected=USAGE),
    Entry("train --encoder offline", ("train", "{w}/refs", "-o", "{o}/m", "--encoder", "hf-hub:no/such"),
          names=("no/such",)),
    Entry("build-index --encoder with a model", (*BASE["build-index"], "--encoder", "resnet50"), expected=USAGE),
]  # fmt: skip

QUERYING = [
    Entry("query -k 1000000000", (*QUERY, "-k", "1000000000"), expected=USAGE, names=("-k",)),
    Entry("query -k of more than there are", (*QUERY, "-k", "999999"), expected=EITHER),
    Entry("query --temperature 1e-300", (*QUERY, "--temperature", "1e-300"), expected=EITHER),
    Entry("query --temperature 1e300", (*QUERY, "--temperature", "1e300"), expected=EITHER),
    Entry("query -o out.csv", (*QUERY, "-o", "{o}/out.csv"), names=("out.csv", ".h5ad")),
    Entry("query with weights and no temperature", (*QUERY, "--weights", "inverse_square", "--temperature", "2"),
          expected=EITHER),
    Entry("query --grid without a pixel size", ("query", "{w}/he.png", *QUERY[3:], "--grid", "112um"),
          names=("--mpp",)),
    *(Entry(f"query --grid {text!r}", ("query", QUERY[1], *QUERY[3:], "--grid", text), names=("grid",))
      for text in ("", "0um", "-5um", "nan", "inf um", "1e-300um", "112 furlongs", "0.4px")),
    Entry("query --grid with coordinates", (*QUERY, "--grid", "112um"), expected=USAGE, names=("--grid",)),
    Entry("query of a folder without slides", ("query", "{o}", *QUERY[3:-4], "-o", "{o}"), names=("no slide image",)),
    Entry("query of two slides into a file", ("query", QUERY[1], "{w}/he.png", *QUERY[3:]), names=("a folder",)),
    Entry("query of two slides of one name", ("query", QUERY[1], QUERY[1], *QUERY[3:-4]), names=("would be called",)),
    Entry("query into an existing file", (*QUERY, "-o", "{w}/p.h5ad"), names=("--force",)),
    Entry("query without what is needed", ("query",), expected=USAGE),
    Entry("query excluding everybody", (*QUERY, "--exclude-patient", "P1", "--exclude-patient", "P2")),
    Entry("query --features and coordinates", (*QUERY, "--features", "{w}/tiles.h5"), expected=USAGE,
          names=("--features",)),
    Entry("query --features of another encoder", ("query", QUERY[1], "--features", "{w}/tiles.h5", *QUERY[3:])),
    Entry("neighbours of another run", ("neighbours", "{i}/p.h5ad", "1x1"),
          (Spoil("p.h5ad"), Spoil("p.neighbours.parquet", "repack"))),
    Entry("neighbours --json and --csv", ("neighbours", "{w}/p.h5ad", "1x1", "--json", "--csv"), expected=USAGE),
    Entry("plot without a gene", ("plot", "{w}/p.h5ad"), expected=USAGE, names=("--gene",)),
    Entry("plot --truth of another slide", (*BASE["plot"], "--truth", "{w}/refs"), expected=EITHER),
]  # fmt: skip


def named(slide: str, expected: str = REFUSED) -> list[Entry]:
    """Return entries about a cohort of which a slide has this name."""
    spoils = (Spoil("refs", f"replace:P1_A,=>{slide},", "slides.csv"),)
    return [
        Entry(f"check of a slide {slide[:20]!r}", ("check", "{i}/refs"), spoils, expected=expected, names=("slide",)),
        Entry(
            f"build-index of a slide {slide[:20]!r}",
            ("build-index", "{i}/refs", "--model", "{w}/model", "-o", "{o}/r"),
            spoils,
            expected=expected,
        ),
        Entry(
            f"add of a slide {slide[:20]!r}",
            ("add", "{i}/refs", "{i}/reference"),
            (*spoils, Spoil("reference")),
            expected=expected,
        ),
    ]


NAMES = [
    entry
    for slide, expected in {
        "../../x": REFUSED,
        "a/b": REFUSED,
        ".": REFUSED,
        "..": REFUSED,
        "/etc/passwd": REFUSED,
        "a\\\\b": EITHER,
        "x" * 300: REFUSED,
        "a b": ACCEPTED,
        "n\\xc3\\xa4ive": ACCEPTED,
        "'; drop table spots; --": EITHER,
        "a\\tb": REFUSED,
        "<script>": ACCEPTED,
        "=1+1": ACCEPTED,
        "-x": EITHER,
    }.items()
    for entry in named(slide, expected)
]


def row(name: str, damage: str, *names: str, expected: str = REFUSED) -> Entry:
    """Return an entry about a slides.csv."""
    return Entry(f"slides.csv {name}", ("check", "{i}/refs"), (Spoil("refs", damage, "slides.csv"),), expected, names)


SLIDES_CSV = [
    row("with an mpp of nan", "replace:,,0.5=>,,nan", expected=EITHER),
    row("with an mpp of -1", "replace:P1_A.tif,,=>P1_A.tif,,-1", "mpp"),
    row("with counts elsewhere", "replace:P1_A.h5ad=>../../../etc/passwd"),
    row("with counts that are absolute", "replace:P1_A.h5ad=>/etc/passwd"),
    row("with counts that are missing", "replace:P1_A.h5ad=>gone.h5ad", "gone.h5ad"),
    row("with counts that are a folder", "replace:P1_A.h5ad=>."),
    row("with no counts", "replace:P1_A.h5ad=>"),
    row("with an image that is missing", "replace:P1_A.tif=>gone.tif", "gone.tif"),
    row("with an image that is a folder", "replace:P1_A.tif=>."),
    row("with an image that is the counts", "replace:P1_A.tif=>P1_A.h5ad"),
    row("with an image that is a device", "replace:P1_A.tif=>/dev/zero"),
    row("with coordinates that are missing", "replace:P1_A.tif,=>P1_A.tif,gone.csv", "gone.csv"),
    row("with a slide twice", "replace:P2_A,=>P1_A,", "P1_A"),
    row("with a slide of no name", "replace:P1_A,=>,"),
    row("with a slide of no name but spaces", "replace:P1_A,=>  ,"),
    row("with two names for one content", "replace:P2_A.h5ad,P2_A.tif=>P1_A.h5ad,P1_A.tif", expected=EITHER),
    row("without the column counts", "replace:counts=>count", "counts"),
    row("of a column twice", "replace:cohort,counts=>counts,counts"),
    row("of a header alone", "header", "slides"),
    row("with a line too long", "replace:P1_A.tif,,=>P1_A.tif,,,,,,"),
]

OTHERS = [
    *(Entry(f"{verb} of two references", (verb, "{w}/reference", "-r", "elsewhere"), expected=USAGE,
            names=("--reference",))
      for verb in ("info", "verify", "history", "cohorts", "optimize")),
    *(Entry(f"{words[0]} of two references", (*words, "-r", "elsewhere"), expected=USAGE, names=("--reference",))
      for words in (("add", "{w}/refs", "{w}/reference"), ("remove", "{w}/reference", "--slide", "P1_A"),
                    ("restore", "1", "{w}/reference"))),
    Entry("plot of a reference that is none", ("plot", "{w}/p.h5ad", "--what", "embedding", "-r", "gone")),
    Entry("info of a reference by a wrong version", (*BASE["info"], "--version", "99"), names=("99",)),
    Entry("check advises no option that it has not", ("check", "{i}/visium"),
          (Spoil("visium", "replace:pxl_row=>row", "spatial/tissue_positions.csv"),)),
    Entry("evaluate with a broken split", (*BASE["evaluate"], "--train", "P1_A", "--test", "P1_A")),
    Entry("train from slides without an image", ("train", "{i}/refs", "-o", "{o}/m", *QUICK_ENCODER),
          (Spoil("refs", "missing", "P1_A.tif"), Spoil("refs", "replace:P1_A.tif=>", "slides.csv")), expected=EITHER),
    Entry("publish to a web server", ("publish", "{w}/reference", "https://example.org/x"),
          names=("https://example.org/x",)),
    Entry("publish over the reference itself", ("publish", "{i}/reference", "{i}/reference"), (Spoil("reference"),),
          names=("the reference itself",)),
    Entry("publish over something else", ("publish", "{w}/reference", "{i}/refs", "--force"), (Spoil("refs"),),
          names=("refs",)),
    Entry("add to what is published", BASE["add"], (Spoil("reference", "text:{}", "published.json"),),
          names=("mst fetch reference",)),
    Entry("info of an address without encryption", ("info", "http://example.org/ref"), names=("allow_http",)),
    Entry("info of an address that is no dataset", ("info", "hf://lab"), names=("hf://owner/name",)),
    Entry("no such command", ("nonsense",), expected=USAGE),
    Entry("no such option", ("info", "--nonsense"), expected=USAGE),
    Entry("an option without its value", ("query", "a", "b", "-k"), expected=USAGE),
]  # fmt: skip

ENTRIES = [*COORDINATES, *TRAINING, *QUERYING, *NAMES, *SLIDES_CSV, *OTHERS]
