"""Options that are texts: names that there are not, conditions, lists, settings, paths that are none."""

from __future__ import annotations

from dataclasses import replace

from hostile.entry import ACCEPTED, EITHER, REFUSED, USAGE, Entry, Spoil
from hostile.table.base import BASE, QUERY, QUICK_ENCODER

EVALUATE, EXPORT, PLOT, TRAIN = BASE["evaluate"], BASE["export"], BASE["plot"], BASE["train"]
COPY = (Spoil("reference"),)
LONG = "x" * 5000

CONDITIONS = {
    "'; drop table spots": EITHER,
    "total_counts > 500; slide_id = 'NOSUCH'": REFUSED,
    "1=1; drop table spots": REFUSED,
    "": REFUSED,
    "   ": REFUSED,
    "nonsense": REFUSED,
    "no_such_column > 1": REFUSED,
    "total_counts >": REFUSED,
    "total_counts > 'x'": EITHER,
    "(((((": REFUSED,
    "total_counts > 1e400": EITHER,
    "slide_id = 'NOSUCH'": REFUSED,
    "1=1 -- comment": EITHER,
    "1=1 /* comment": EITHER,
    "total_counts": REFUSED,
    "42": REFUSED,
    "'text'": REFUSED,
    "NULL": REFUSED,
    "slide_id IN (SELECT slide_id FROM spots)": REFUSED,
    "sleep(10)": REFUSED,
    "1=1) OR (1=1": EITHER,
    "regexp_match(slide_id, '(a+)+$')": EITHER,
    "embedding > 1": REFUSED,
    "slide_id = 'naïve \u202e'": REFUSED,
    "total_counts > 0 AND " * 200 + "total_counts > 0": EITHER,
    "\0": EITHER,
    "total_counts / 0 > 1": EITHER,
    "9223372036854775808 > total_counts": EITHER,
}

WHERE = [
    Entry(f"{verb} --where {condition[:40]!r}", (*words, "--where", condition), expected=expected)
    for condition, expected in CONDITIONS.items()
    for verb, words in {
        "query": QUERY,
        "export": ("export", "-r", "{w}/reference", "-o", "{o}/spots.parquet"),
    }.items()
    if "\0" not in condition
]

UNKNOWN = ("NOSUCH", "", "../../etc", "ünïcode", LONG)

NAMES = [
    *(Entry(f"query {option} {name[:20]!r}", (*QUERY, option, name), names=(name[:20],))
      for option in ("--exclude-patient", "--exclude-slide", "--only-cohort") for name in UNKNOWN if name),
    *(Entry(f"query {option} ''", (*QUERY, option, ""), expected=EITHER)
      for option in ("--exclude-patient", "--exclude-slide", "--only-cohort")),
    *(Entry(f"{verb} --slides {name[:20]!r}", (*BASE[verb], "--slides", name), COPY if verb == "add" else (),
            names=(name[:20],)) for verb in ("train", "build-index", "evaluate", "add") for name in UNKNOWN if name),
    *(Entry(f"{verb} --slides {name!r}", (*BASE[verb], "--slides", name), COPY if verb == "add" else (),
            expected=USAGE, names=("--slides",))
      for verb in ("train", "build-index", "evaluate", "add") for name in ("", ",", " , ")),
    *(Entry(f"remove {option} {name[:20]!r}", (*BASE["remove"], option, name), COPY)
      for option in ("--slide", "--patient", "--cohort") for name in UNKNOWN),
    Entry("remove nothing", BASE["remove"], COPY),
    *(Entry(f"{verb} --version {version[:20]!r}", (*BASE[verb], "--version", version), COPY if verb == "tag" else ())
      for verb in ("query", "cohorts", "info", "tag")
      for version in ("0", "-1", "99", "NOSUCH", "", "1.5", "9" * 30, "../1", "²", LONG)),
    *(Entry(f"restore {version[:20]!r}", ("restore", version, "{i}/reference"), COPY)
      for version in ("0", "99", "NOSUCH", "", "1.5", "9" * 30, "../1", "²")),
    *(Entry(f"tag {name[:20]!r}", ("tag", name, "{i}/reference"), COPY, expected=expected)
      for name, expected in {"": REFUSED, "../x": REFUSED, "a/b": REFUSED, ".": REFUSED, "7": REFUSED, LONG: REFUSED,
                             "a b": REFUSED, "naïve": EITHER, "con": ACCEPTED, "..": REFUSED, "²": EITHER,
                             "a\nb": REFUSED}.items()),
    Entry("tag --remove of none", ("tag", "NOSUCH", "{i}/reference", "--remove"), COPY, names=("NOSUCH",)),
    Entry("tag --remove without a name", ("tag", "--remove", "-r", "{i}/reference"), COPY, expected=USAGE),
    *(Entry(f"neighbours of {spot[:20]!r}", ("neighbours", "{w}/p.h5ad", spot)) for spot in ("NOSUCH", "", LONG, "🧬")),
    *(Entry(f"neighbours --gene {gene[:20]!r}", ("neighbours", "{w}/p.h5ad", "1x1", "-r", "{w}/reference", "-g", gene))
      for gene in ("NOSUCH", "", "erbb2", LONG, "ERBB2,CD3E")),
    *(Entry(f"plot --gene {gene[:20]!r}", ("plot", "{w}/p.h5ad", "-g", gene, "-o", "{o}/m.png"))
      for gene in ("NOSUCH", "", "erbb2", LONG, "../x")),
    *(Entry(f"query --genes {genes[:20]!r}", (*QUERY, "--genes", genes))
      for genes in ("NOSUCH", "", ",", "erbb2", "gone.txt", "../gone", LONG, "ERBB2;CD3E", "{w}/slide.tif", "{w}")),
    *(Entry(f"export --genes {genes[:20]!r}", (*EXPORT, "--genes", genes))
      for genes in ("NOSUCH", "", ",", "gone.txt")),
    *(Entry(f"export --layers {layers!r}", (*EXPORT, "--layers", layers))
      for layers in ("nonsense", "mean,mean,x")),
    *(Entry(f"export --layers {layers!r}", (*EXPORT, "--layers", layers), expected=USAGE) for layers in ("", ",")),
    *(Entry(f"plot --truth-slide {name!r}", (*PLOT, "--truth", "{w}/refs", "--truth-slide", name))
      for name in ("NOSUCH", "")),
]  # fmt: skip

COLUMNS = [
    *(Entry(f"query {option} {name!r}", (*QUERY, *words, option, name))
      for option, words in {"--x-column": ("--y-column", "y"), "--y-column": ("--x-column", "x"),
                            "--id-column": ()}.items()
      for name in ("NOSUCH", "")),
    Entry("query --x-column alone", (*QUERY, "--x-column", "x"), names=("--y-column",)),
    Entry("query --x-column of ids", (*QUERY, "--x-column", "id", "--y-column", "y"), names=("coords.csv", "id")),
    Entry("query --x-column = --y-column", (*QUERY, "--x-column", "x", "--y-column", "x")),
    Entry("query --id-column of x", (*QUERY, "--id-column", "x"), expected=EITHER),
    Entry("query --origin topleft alone", (*QUERY, "--origin", "topleft"), names=("--tile-px",)),
    Entry("query --tile-px alone", (*QUERY, "--tile-px", "100"), expected=USAGE, names=("--tile-px",)),
    Entry("query --units um", (*QUERY, "--units", "um"), expected=EITHER),
    Entry("query --mpp of another slide", (*QUERY, "--mpp", "0.01")),
    Entry("query --mpp 100", (*QUERY, "--mpp", "100")),
]  # fmt: skip

SETTINGS = [
    Entry(f"train --set {text[:40]!r}", (*TRAIN, "--set", text), expected=expected)
    for text, expected in {
        "": REFUSED, "=": REFUSED, "retrieval": REFUSED, "retrieval.k": REFUSED, "retrieval.k=": REFUSED,
        "=3": REFUSED, "retrieval=3": REFUSED, "retrieval={}": EITHER, "encoder.nam=x": REFUSED, ".k=3": REFUSED,
        "retrieval.k.x=3": REFUSED, "encoder.scales=[]": REFUSED, "encoder.scales=[0]": REFUSED,
        "encoder.scales=[NaN]": REFUSED, "encoder.scales=[1,\"x\"]": REFUSED, "encoder.scales=1": REFUSED,
        "encoder.views=3": REFUSED, "encoder.views=0": REFUSED, "encoder.pooling=max": REFUSED,
        "encoder.input_px=[7]": REFUSED, "encoder.input_px=[9999]": REFUSED, "encoder.name=": REFUSED,
        "encoder.name=a,,b": REFUSED, "encoder.name=[1]": REFUSED, "choose=[\"x\"]": REFUSED, "choose=3": REFUSED,
        "space=other": REFUSED, "shared.level_weights=[2,2]": REFUSED, "shared.level_weights=[NaN,NaN]": REFUSED,
        "shared.scales=[]": REFUSED, "shared.scales=[-1]": REFUSED, "shared.scales=[9]": REFUSED,
        "shared.context_scales=[9]": REFUSED, "shared.stages=none": REFUSED, "recipe=": EITHER, "recipe=7": REFUSED,
        "calibrate=maybe": REFUSED, "calibrate=1": REFUSED, "retrieval.k=" + "[" * 3000: REFUSED,
        "retrieval.k=" + "9" * 5000: REFUSED, "normalisation.log=ln": REFUSED, "ünïcode=1": REFUSED,
        "retrieval.weights=null": REFUSED, "network.heads=1e3": REFUSED, "patch.size_px=224.5": REFUSED,
    }.items()
]  # fmt: skip

LISTS = [
    *(Entry(f"evaluate --seeds {seeds[:20]!r}", (*EVALUATE, "--seeds", seeds), expected=USAGE, names=("--seeds",))
      for seeds in ("", ",", "x", "-1", "0,-1", "1.5", "99999999999", "²", "9" * 5000)),
    *(Entry(f"evaluate --recipe {name!r}", (*EVALUATE, "--recipe", name), expected=USAGE, names=("--recipe",))
      for name in ("", "ours", "paper,default")),
    *(Entry(f"evaluate --tune {text[:30]!r}", (*EVALUATE, "--tune", text))
      for text in ("", "=", "retrieval.k", "retrieval.k=", "retrieval.k=x", "nosuch=1,2", "retrieval.k=0,5",
                   "retrieval.k=" + ",".join(map(str, range(1, 40))))),
    *(Entry(f"evaluate {' '.join(words)[:40]}", (*EVALUATE, *words))
      for words in (("--train", "NOSUCH"), ("--test", "NOSUCH"), ("--train", "P1_A", "--test", "P1_A"),
                    ("--train", "P1_A,P2_A"), ("--test", "P1_A,P2_A"), ("--train", "P1_A,P1_A", "--test", "P1_A"),
                    ("--by", "cohort"))),
    *(Entry(f"evaluate {option} {names!r}", (*EVALUATE, option, names), expected=USAGE, names=(option,))
      for option, names in (("--train", ""), ("--test", ","))),
    Entry("evaluate --genes and --n-genes", (*EVALUATE, "--genes", "{w}/genes.txt", "--n-genes", "5"), expected=USAGE),
    Entry("evaluate --folds and --train", (*EVALUATE, "--folds", "{w}/folds.csv", "--train", "P1_A")),
]  # fmt: skip

ENCODERS = [
    *(Entry(f"train --encoder {name[:30]!r}", ("train", "{w}/refs", "-o", "{o}/model", "--encoder", name))
      for name in ("nosuch", "hf-hub:no/such", "hf-hub:", "hf-hub:../../x", "../../etc/passwd", ",", "a,,b", "ünïcode",
                   "local-dir:/etc", "https://example.org/x", LONG)),
    *(Entry(f"train --encoder-weights {weights[:30]!r}",
            ("train", "{w}/refs", "-o", "{o}/model", "--encoder", "test_resnet", "--encoder-weights", weights))
      for weights in ("gone.safetensors", "{w}/slide.tif", "{w}/refs", "random,random", "{w}/genes.npy", "/dev/zero",
                      "{w}/model/weights.safetensors")),
]  # fmt: skip

PATHS = [
    *(Entry(f"{verb} of {path[:20]!r}", (verb, path, *more))
      for verb, more in {"check": (), "train": ("-o", "{o}/m", *QUICK_ENCODER), "build-index": ("-o", "{o}/r"),
                         "evaluate": ("-o", "{o}/e")}.items()
      for path in ("gone", "{w}/slide.tif", "{w}/genes.txt", "{w}/model", "{o}", "/dev/null", "/dev/zero",
                   "https://example.org/refs", "s3://bucket/refs", "{w}/slide.tif/x", LONG)),
    *(Entry(f"query of {path[:20]!r}", ("query", path, *QUERY[2:]))
      for path in ("gone.tif", "", "{w}", "{w}/coords.csv", "{w}/genes.npy", "{w}/p.h5ad", "/dev/null", "/dev/zero",
                   "https://example.org/a.tif", "s3://bucket/a.tif", "file:///a.tif", LONG, "{w}/coords.csv/x")),
    *(Entry(f"query at {path[:20]!r}", ("query", QUERY[1], path, *QUERY[3:]))
      for path in ("gone.csv", "", "{w}", "{w}/slide.tif", "{w}/p.h5ad", "/dev/null", "/dev/zero",
                   "https://example.org/a.csv", LONG, "{w}/refs/slides.csv")),
    Entry("query without coordinates", ("query", QUERY[1], *QUERY[3:]), expected=EITHER),
    *(Entry(f"{verb} from {path[:20]!r}", (verb, path)) for verb in ("info", "cohorts", "history", "verify", "optimize")
      for path in ("gone", "{w}", "{w}/model", "{w}/slide.tif", "{w}/refs", "/dev/null", LONG)),
    *(Entry(f"{verb} from {uri}", (verb, uri), names=(uri,)) for verb in ("info", "verify", "cohorts")
      for uri in ("https://example.org/r", "file:///r", "s3://bucket")),
    *(Entry(f"{verb} {path[:20]!r}", (verb, path, *more))
      for verb, more in {"neighbours": ("x",), "plot": ("-g", "ERBB2", "-o", "{o}/m.png"), "serve": (),
                         "report": ("-o", "{o}/p.html"), "export": ("-o", "{o}/t.csv")}.items()
      for path in ("gone.h5ad", "{w}/coords.csv", "{w}/truth.h5ad", "/dev/null", "")),
]  # fmt: skip


def with_output(verb: str, path: str) -> tuple[str, ...]:
    """Return a command's words with another output."""
    words = list(BASE[verb])
    words[words.index("-o") + 1] = path
    return tuple(words)


OUTPUTS = [
    Entry(f"{verb} -o {path[:24]!r}", with_output(verb, path))
    for verb in ("demo", "train", "build-index", "query", "plot", "report", "export", "evaluate")
    for path in ("{w}/refs", "{w}/slide.tif/x", "{o}/no/such/place", "/dev/null", "/proc/x", "{o}/" + LONG, "")
] + [
    Entry(f"{verb} -o {path!r}", with_output(verb, path))
    for verb, paths in {
        "query": ("{o}/p.csv", "{o}/p", "{o}/p.h5ad.gz"),
        "plot": ("{o}/m.gif", "{o}/m", "{o}/m.h5ad"),
        "export": ("{o}/t.xlsx", "{o}/t"),
        "report": ("{o}/r.pdf",),
    }.items()
    for path in paths
]

CACHES = [
    Entry(f"{verb} --cache {path!r}", (*BASE[verb], "--cache", path), copies, expected=expected)
    for verb, copies, expected in (("query", (), ACCEPTED), ("add", COPY, EITHER))
    for path in ("{w}/slide.tif", "/proc/x", "/dev/null")
]

ONE_OF = 6
"""Of so many entries one is run with the other tests, all of them in full runs."""

ENTRIES = [
    replace(entry, always=place % ONE_OF == 0)
    for place, entry in enumerate([*WHERE, *NAMES, *COLUMNS, *SETTINGS, *LISTS, *ENCODERS, *PATHS, *OUTPUTS, *CACHES])
]
