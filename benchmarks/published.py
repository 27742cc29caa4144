"""Measure published copies: writing one, fetching it, fetching a later version, with and without counts.

    python benchmarks/published.py --spots 100000

The spots are simulated as in `benchmarks/store.py`, the model is a tiny one, and the server is one of this machine. A
table is printed, and written to benchmarks/results/published-SPOTS.json.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from _measure import Clock, peak_mb
from store import SLIDE_SPOTS, records, simulation

from mclstexp.errors import MclstexpWarning
from mclstexp.index.published.copy import local_copy
from mclstexp.index.published.publish import Publication, publish
from mclstexp.index.published.wishes import Wishes
from mclstexp.index.store.store import ReferenceStore

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
from references import build_library  # noqa: E402  it lies with the tests

HTTP = {"allow_http": "true"}


class Quiet(SimpleHTTPRequestHandler):
    """A folder over HTTP, whose bytes are counted."""

    protocol_version = "HTTP/1.1"
    sent = 0

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file."""
        type(self).sent += os.fstat(source.fileno()).st_size
        shutil.copyfileobj(source, outputfile)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/shared"
    finally:
        server.shutdown()
        server.server_close()


def reference(folder: Path, options: argparse.Namespace) -> ReferenceStore:
    """Build a simulated reference that holds a tiny model."""
    (folder / "library").mkdir()
    model = next((build_library(folder / "library").folder / "models").iterdir())
    sim = simulation(options)
    return ReferenceStore.create(
        folder / "reference",
        sim.identity(),
        records(sim, options.spots // SLIDE_SPOTS),
        save_model=lambda target: shutil.copytree(model, target),
    )


def fetched(uri: str) -> dict[str, float]:
    """Fetch what is lacking; return seconds and megabytes."""
    before = Quiet.sent
    with Clock() as clock:
        local_copy(uri, HTTP)
    return {"s": clock.seconds, "mb": (Quiet.sent - before) / 1e6}


def measure(folder: Path, options: argparse.Namespace, wishes: Wishes) -> dict[str, Any]:
    """Publish and fetch, then both again with a slide more."""
    store = ReferenceStore.open(folder / "reference")
    target = folder / "web" / "shared"
    target.parent.mkdir()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")

    def published() -> tuple[float, Publication]:
        with Clock() as clock:
            done = publish(store, target, wishes)
        return clock.seconds, done

    publish_s, done = published()
    values = {"publish_s": publish_s, "bytes_a_spot": done.n_bytes / store.n_spots}
    with serving(target.parent) as uri:
        values |= {f"fetch_{name}": value for name, value in fetched(uri).items()}
        values |= {f"again_{name}": value for name, value in fetched(uri).items()}
        store.add(records(simulation(options), 1, start=store.n_spots // SLIDE_SPOTS))
        publish_s, _ = published()
        values["later_publish_s"] = publish_s
        values |= {f"later_fetch_{name}": value for name, value in fetched(uri).items()}
        store.remove(slides=[store.entries[-1].slide_id])
    for name in ("web", "cache"):
        shutil.rmtree(folder / name)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("spots", 100_000), ("genes", 1000), ("dim", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, default=None, help="where there is space [default: a temporary one]")
    options = parser.parse_args()
    warnings.simplefilter("ignore", MclstexpWarning)
    results: dict[str, Any] = {"options": {name: str(value) for name, value in vars(options).items()}}
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        reference(Path(work), options)
        for name, wishes in (("whole", Wishes()), ("without counts", Wishes(without_counts=True))):
            results[name] = measure(Path(work), options, wishes)
            print(name)
            for key, value in results[name].items():
                print(f"  {key:16} {value:.4g}")
    results["peak_mb"] = peak_mb()
    target = Path(__file__).parent / "results" / f"published-{options.spots}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
