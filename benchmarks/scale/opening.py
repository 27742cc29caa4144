"""Open a large reference in an object store: cold, warm, and cold without the shared derived files.

    python benchmarks/scale/opening.py --spots 300_000

The store is moto's S3 server on loopback, so the figures say what is computed and moved, not how slow a network is;
moto copies a whole object for every part that is read, so that more than some 300,000 spots take it very long. With
AWS_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set, another server is used, and a bucket "references" in it.
Each reader is a process of its own with a cache of its own; it opens the reference and searches for 1,000 queries. A
table is printed, and everything is written to benchmarks/results/scale-opening-SPOTS.json.
"""

import argparse
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "scale")]
from _measure import Clock, peak_mb  # noqa: E402  they lie beside this folder
from search import Atlas, K, folder_bytes, private_mb  # noqa: E402

from mclstexp.index.store.place import Place  # noqa: E402
from mclstexp.index.store.store import ReferenceStore  # noqa: E402

ACCESS = ("AWS_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
URI = "s3://references/large"


def start_server() -> tuple[Any, dict[str, str]]:
    """Start moto's server, unless the environment names another; return it, and what the readers' environment needs."""
    import boto3

    server, access = None, {name: os.environ[name] for name in ACCESS if name in os.environ}
    if "AWS_ENDPOINT" not in access:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        access = {"AWS_ENDPOINT": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    client = boto3.client(
        "s3",
        endpoint_url=access["AWS_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=access["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=access["AWS_SECRET_ACCESS_KEY"],
    )
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        client.create_bucket(Bucket="references")
    return server, {"AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true", **access}


def write(options: argparse.Namespace) -> dict[str, Any]:
    """Build the reference in the bucket."""
    atlas = Atlas(options)
    with Clock() as clock:
        ReferenceStore.create(URI, atlas.sim.identity(), atlas.records(options.spots))
    return {"seconds_with_making_the_slides": clock.seconds, "peak_mb": peak_mb()}


def read(options: argparse.Namespace) -> dict[str, Any]:
    """Open it, search, and say how long each took."""
    query = Atlas(options).embeddings(options.queries, 10**6)
    with Clock() as opening:
        store = ReferenceStore.open(URI)
    with Clock() as preparing:
        index = store.index("cpu")
        index.search(query[:1], K)
    with Clock() as searching:
        index.search(query, K)
    return {
        "open_s": opening.seconds,
        "first_query_s": preparing.seconds,
        "search_s": searching.seconds,
        "backend": index.backend.name,
        "cache_bytes": folder_bytes(options.cache),
        "private_mb": private_mb(),
        "peak_mb": peak_mb(),
    }


def stage(options: argparse.Namespace, name: str, cache: str, access: dict[str, str]) -> dict[str, Any]:
    """Run a stage in a process and a cache of its own."""
    folder = (options.folder / cache).absolute()
    arguments = [f"--spots={options.spots}", f"--dim={options.dim}", f"--queries={options.queries}"]
    command = [sys.executable, str(Path(__file__).absolute()), *arguments, f"--stage={name}", f"--cache={folder}"]
    environment = {**os.environ, **access, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", type=int, default=300_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/scale-opening"))
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.keys = None
    return options


def main() -> None:
    options = parse()
    if options.stage:
        print(json.dumps(globals()[options.stage](options)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    server, access = start_server()
    os.environ.update(access)
    place = Place(URI)
    try:
        results = {"options": {name: str(value) for name, value in vars(options).items()}}
        results["write"] = stage(options, "write", "writer", access)
        shutil.rmtree(options.folder / "writer", ignore_errors=True)
        results["cold"] = stage(options, "read", "reader", access)
        results["warm"] = stage(options, "read", "reader", access)
        shutil.rmtree(options.folder / "reader", ignore_errors=True)
        for name in place.names("derived"):
            place.remove(name)
        results["cold_without_shared_files"] = stage(options, "read", "other", access)
    finally:
        for name in place.names():
            place.remove(name)
        if server is not None:
            server.stop()
        shutil.rmtree(options.folder, ignore_errors=True)
    target = ROOT / "benchmarks" / "results" / f"scale-opening-{options.spots}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{'':26} {'open s':>7} {'first query s':>13} {'1000 q s':>8} {'cache MB':>8} {'private MB':>10}")
    for name in ("cold", "warm", "cold_without_shared_files"):
        row = results[name]
        print(f"{name:26} {row['open_s']:7.2f} {row['first_query_s']:13.2f} {row['search_s']:8.2f}"
              f" {row['cache_bytes'] / 1e6:8.0f} {row['private_mb']:10.0f}")  # fmt: skip
    print(json.dumps(results["write"]))


if __name__ == "__main__":
    main()
