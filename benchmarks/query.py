"""A query end to end against the encoder alone, patch by patch and tile by tile. Prints tables, writes JSON.

    python benchmarks/query.py --encoders tf_efficientnet_lite0,densenet121 --spots 100 --mm 1.5 --rounds 3

A HER2+ section becomes a pyramidal TIFF. Patch by patch: `Reference.query` of spots from that file, everything
imported and open, against the encoder's forward passes over the same patches in memory, in turn, at three distances
between spots. Tile by tile: the features of a square of tissue, at distances down to 16 um bins, against what its
spots would take patch by patch. The reference is simulated, weights of densenet121 are random: neither changes the time
of a pass. Seconds are wall time (medians of the rounds) and CPU time of the process (least of the rounds).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _her2st as her2st
import numpy as np
from _measure import peak_mb

PITCHES_UM = (200.0, 100.0, 50.0)
BINS_UM = 16.0
MPP = 0.6876
SECTION = "C2"


def write_pyramid(source: Any, path: Path) -> None:
    """Write an image as a tiled JPEG pyramid, as scanners do."""
    import tifffile
    from PIL import Image

    width, height = source.size_px
    level = source.read_region(0, 0, width, height)
    resolution = (1e4 / MPP, 1e4 / MPP)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number in range(5):
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 90},
                resolution=resolution,
                resolutionunit="CENTIMETER",
                subfiletype=1 if number else 0,
            )
            level = np.asarray(Image.fromarray(level).reduce(2))


def lattice(slide: Any, pitch_um: float, n: int | None, mm: float) -> Any:
    """Return the slide with ``n`` spots (None: as many as fill ``mm`` x ``mm``) in a square about its middle."""
    from mclstexp.slide import SpotTable

    side = round(n**0.5) if n else round(1000 * mm / pitch_um)
    row, column = (axis.ravel() for axis in np.mgrid[:side, :side])
    middle = np.median(slide.spots.xy_px, axis=0)
    xy = middle + (np.stack([column, row], axis=1) - (side - 1) / 2) * pitch_um / MPP
    spots = SpotTable([f"{r}x{c}" for r, c in zip(row, column, strict=True)], xy, row, column)
    return dataclasses.replace(slide, spots=spots, pitch_um=pitch_um, notes=())


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turn(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Time each in turn, round by round, so that a busy machine slows them alike."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return {
        name: {"wall": statistics.median(w for w, _ in rows), "cpu": min(c for _, c in rows)}
        for name, rows in seconds.items()
    }


def reference_of(folder: Path, encoder: str, weights: str, *settings: str) -> Any:
    """Return a small simulated reference whose model has this encoder."""
    import mclstexp as mst
    from mclstexp.data.synthetic import SlideSpec, write_cohort

    refs = folder / "cohort"
    if not refs.exists():
        spec = SlideSpec(n_genes=60, side_px=900, pitch_um=110.0)
        write_cohort(refs, n_patients=2, slides_per_patient=1, spec=spec)
    slides = mst.read_slides(refs / "refs")
    changes = [f"encoder.name={encoder}", "choose=[]", "n_genes=40", "calibrate=false", *settings]
    model = mst.train(slides, settings=changes, encoder_weights=weights, cache=False)
    name = "-".join([encoder, *settings]).replace("=", "_").replace("/", "_")
    return mst.Reference.build(folder / name, slides, model)


def patchwise(reference: Any, slide: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare queries with the bare passes over the same patches."""
    from mclstexp.data.patches import read_patch

    model, rows = reference.model, []
    views = [dataclasses.replace(model.config.patch, scale=s) for s in model.config.encoder.scales]
    reference.query(lattice(slide, 200.0, 4, 0))
    for pitch in PITCHES_UM:
        spots = lattice(slide, pitch, options.spots, 0)
        pixels: list[Any] = []

        def read(spots: Any = spots, pixels: list[Any] = pixels) -> None:
            pixels[:] = [
                np.stack([read_patch(spots.image, xy, view, spots.mpp) for xy in spots.spots.xy_px]) for view in views
            ]

        def query(spots: Any = spots) -> None:
            spots.image.close()
            reference.query(spots)

        features = model.features(spots)
        read()
        encode = {"bare": lambda pixels=pixels: [model.encoder.features(patches) for patches in pixels]}
        seconds = in_turn({**encode, "query": query, "read": read}, options.rounds)
        rest = timed(lambda spots=spots, features=features: without_encoding(reference, spots, features))
        row = {"pitch_um": pitch, "spots": len(spots), **{k: v["wall"] for k, v in seconds.items()}, "rest": rest[0]}
        row |= {f"{name}_cpu": value["cpu"] for name, value in seconds.items()} | {"rest_cpu": rest[1]}
        row["ratio"] = (row["query"] - row["rest"]) / row["bare"]
        row["ratio_all"] = row["query"] / row["bare"]
        row["ratio_cpu"] = row["query_cpu"] / row["bare_cpu"]
        rows.append(row)
    return rows


def without_encoding(reference: Any, spots: Any, features: Any) -> None:
    """Query with features at hand: what is left is search, averaging, familiarity and the small picture."""
    from unittest.mock import patch

    with patch.object(type(reference.model), "features", lambda *_, **__: features):
        reference.query(spots)


def per_patch(model: Any) -> float:
    """Return the CPU seconds of a spot patch by patch: all fields of view, one view, the least of three rounds."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, *2 * (model.config.patch.size_px,), 3), dtype=np.uint8)
    scales, views = len(model.config.encoder.scales), model.config.encoder.views
    model.encoder.features(pixels)
    cpu = min(timed(lambda: model.encoder.features(pixels))[1] for _ in range(3))
    return float(cpu / len(pixels) * scales / views)


def tilewise(model: Any, slide: Any, per_spot: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Encode a square of tissue tile by tile at each distance; compare with its spots patch by patch."""
    rows = []
    for pitch in (*PITCHES_UM, BINS_UM):
        spots = lattice(slide, pitch, None, options.mm)
        kept = model.features(spots)
        wall, cpu = min(timed(lambda spots=spots: model.features(spots)) for _ in range(min(2, options.rounds)))
        rows.append(
            {
                "pitch_um": pitch,
                "spots": len(spots),
                "wall": wall,
                "cpu": cpu,
                "cpu_per_mm2": cpu / options.mm**2,
                "times cheaper, two views": 2 * per_spot * len(spots) / cpu,
                "times cheaper, one view": per_spot * len(spots) / cpu,
                "features_mb": kept.nbytes / 2**20,
                "peak_mb": peak_mb(),
            }
        )
    return rows


def main() -> None:
    parser = her2st.parser(__doc__, "query")
    parser.add_argument("--encoders", default="tf_efficientnet_lite0,densenet121")
    parser.add_argument("--spots", type=int, default=100, help="Spots of a query patch by patch.")
    parser.add_argument("--mm", type=float, default=1.5, help="Side of the square that is encoded tile by tile.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["patches", "tiles"], help="Leave the other way out.")
    options = her2st.parse(parser)
    import torch

    from mclstexp.data.images import open_image

    (section,) = her2st.read(options, [SECTION])
    results: dict[str, Any] = {"facts": her2st.facts(options), "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "C2.tif"
        write_pyramid(section.image, path)
        spots = dataclasses.replace(section.spots, counts=None, genes=None, labels=None)
        slide = dataclasses.replace(section, spots=spots, image=open_image(path), mpp=MPP, mpp_source="given")
        for encoder in her2st.split_list(options.encoders):
            named = her2st.WEIGHTS.get(encoder)
            weights = str(options.shared / "weights" / named) if named else "random"
            reference = reference_of(Path(scratch), encoder, weights, *options.set)
            results[encoder] = {}
            if options.only != "tiles":
                rows = patchwise(reference, slide, options)
                header = ["pitch_um", "spots", "bare", "query", "read", "rest", "ratio", "ratio_all", "ratio_cpu"]
                her2st.show(f"{encoder}, patch by patch", header, [[row[name] for name in header] for row in rows])
                results[encoder]["patch by patch"] = rows
            if options.only != "patches":
                tiles = tilewise(densely(reference.model), slide, per_patch(reference.model), options)
                title = f"{encoder}, tile by tile, {options.mm} mm square"
                her2st.show(title, list(tiles[0]), [list(row.values()) for row in tiles])
                results[encoder]["tile by tile"] = tiles
            results["peak_mb"] = peak_mb()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")


def densely(model: Any) -> Any:
    """Return the model with an encoder that takes the tissue tile by tile, in one view."""
    from mclstexp.model.image.encoder import ImageEncoder

    spec = dataclasses.replace(model.config.encoder, views=1, dense=True)
    encoder = ImageEncoder(spec, [_dense(member) for member in model.encoder.members])
    return type(model)(dataclasses.replace(model.config, encoder=spec), model.panel, encoder, model.space)


def _dense(member: Any) -> Any:
    from mclstexp.model.image.backbone import Backbone

    return Backbone(dataclasses.replace(member.spec, views=1, dense=True), member.model, member.n_stages)


if __name__ == "__main__":
    main()
