"""Each command as it works on the world, before anything is spoilt."""

QUERY = ("query", "{w}/slide.tif", "{w}/coords.csv", "-r", "{w}/reference", "-o", "{o}/p.h5ad", "--device", "cpu")
QUICK_ENCODER = ("--encoder", "test_resnet", "--encoder-weights", "random", "--device", "cpu")

BASE: dict[str, tuple[str, ...]] = {
    "demo": ("demo", "-o", "{o}/demo"),
    "check": ("check", "{w}/refs"),
    "train": ("train", "{w}/refs", "-o", "{o}/model", *QUICK_ENCODER),
    "build-index": ("build-index", "{w}/refs", "--model", "{w}/model", "-o", "{o}/reference", "--device", "cpu"),
    "query": QUERY,
    "neighbours": ("neighbours", "{w}/p.h5ad", "1x1", "-r", "{w}/reference"),
    "plot": ("plot", "{w}/p.h5ad", "-g", "ERBB2", "-o", "{o}/map.png"),
    "report": ("report", "{w}/p.h5ad", "-o", "{o}/page.html", "-r", "{w}/reference"),
    "serve": ("serve", "{w}/p.h5ad", "-r", "{w}/reference"),
    "export": ("export", "{w}/p.h5ad", "-o", "{o}/table.csv"),
    "evaluate": ("evaluate", "{w}/refs", "-o", "{o}/report", *QUICK_ENCODER),
    "add": ("add", "{w}/refs", "{i}/reference", "--device", "cpu"),
    "publish": ("publish", "{w}/reference", "{o}/shared"),
    "cache": ("cache", "{o}/cache"),
    "remove": ("remove", "{i}/reference"),
    "cohorts": ("cohorts", "{w}/reference"),
    "info": ("info", "{w}/reference"),
    "verify": ("verify", "{w}/reference"),
    "history": ("history", "{w}/reference"),
    "restore": ("restore", "1", "{i}/reference"),
    "tag": ("tag", "paper", "{i}/reference"),
    "optimize": ("optimize", "{i}/reference"),
}
"""Words of each command; those that change a reference work on a copy of it, ``{i}/reference``."""

CHANGING = ("add", "remove", "restore", "tag", "optimize")
