"""How near predictions of the same slide are, from another file and at another pixel size.

    python benchmarks/formats.py

A third of the spots of HER2+ section C6, predicted by the default recipe from a reference of the other sections of
patient C, from the JPEG as published and from files that are made of its pixels: other formats, pyramids, another JPEG
on top, fewer and more pixels. Then an Aperio slide and the DICOM that was made from it, at the points of a grid over
their tissue. A difference is the root mean square over spots and genes, each gene in standard deviations of its
prediction from the first file; a correlation is a gene's over the spots, the median of all genes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _her2st as her2st
import numpy as np
from _her2st import C
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mclstexp.index.reference import Reference
    from mclstexp.slide import Slide

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

SECTION, EVERY = "C6", 3
N_LEVELS, TILE = 4, 256
PIXELS = (2.0, 1 / 0.7, 1.0, 0.75, 0.7, 0.5)
"""How many times as many pixels a side the resampled files have."""

APERIO, DICOM, GRID = "slides/CMU-1-Small-Region.svs", "slides/dicom", "200um"


def levels(pixels: Pixels, n: int) -> list[Pixels]:
    """Return a pyramid of means of squares."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    whole = Image.fromarray(pixels)
    return [pixels, *(np.asarray(whole.reduce(2**step)) for step in range(1, n))]


def save_picture(path: Path, pixels: Pixels, mpp: float) -> None:
    """Write a PNG, or a JPEG of quality 95."""
    from PIL import Image

    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {"compress_level": 1}))


def save_tiff(path: Path, pixels: Pixels, mpp: float, n_levels: int = 1) -> None:
    """Write a tiled TIFF; an OME-TIFF where it is named so."""
    import tifffile

    ome = path.name.endswith(".ome.tif")
    first, *others = levels(pixels, n_levels)
    metadata = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp} if ome else None
    common: dict[str, Any] = {"photometric": "rgb", "tile": (TILE, TILE)}
    with tifffile.TiffWriter(path, ome=ome) as tif:
        per_cm = 1e4 / mpp
        tif.write(
            first,
            subifds=len(others),
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            metadata=metadata,
            **common,
        )
        for level in others:
            tif.write(level, subfiletype=1, metadata=None, **common)


def save_svs(path: Path, pixels: Pixels, mpp: float) -> None:
    """Write a pyramid as Aperio's scanners do, JPEG of quality 95."""
    import tifffile

    height, width = pixels.shape[:2]
    with tifffile.TiffWriter(path) as tif:
        for number, level in enumerate(levels(pixels, N_LEVELS)):
            size = f"{width}x{height} {'' if number == 0 else '-> '}({TILE}x{TILE})"
            tif.write(
                level,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="jpeg",
                compressionargs={"level": 95},
                metadata=None,
                description=f"Aperio Image Library v1\r\n{size}|AppMag = 20|MPP = {mpp}|",
            )


def save_zarr(path: Path, pixels: Pixels, mpp: float, n_levels: int = 1) -> None:
    """Write an OME-Zarr 0.4."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for number, level in enumerate(levels(pixels, n_levels)):
        values = np.ascontiguousarray(level.transpose(2, 0, 1))
        group.create_array(str(number), data=values, chunks=(3, 1024, 1024))
        scale = [1.0, mpp * 2**number, mpp * 2**number]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]


FILES: dict[str, tuple[str, Callable[[Path, Pixels, float], None]]] = {
    "PNG": ("a.png", save_picture),
    "OME-TIFF": ("a.ome.tif", save_tiff),
    "OME-Zarr": ("a.zarr", save_zarr),
    "TIFF with a pyramid": ("p.tif", lambda path, pixels, mpp: save_tiff(path, pixels, mpp, N_LEVELS)),
    "OME-Zarr with a pyramid": ("p.zarr", lambda path, pixels, mpp: save_zarr(path, pixels, mpp, N_LEVELS)),
    "SVS with a pyramid, JPEG over again": ("p.svs", save_svs),
    "JPEG over again, quality 95": ("a.jpg", save_picture),
}


def resized(pixels: Pixels, times: float) -> Pixels:
    """Resample by Lanczos' filter to so many times as many pixels a side."""
    from PIL import Image

    size = (round(pixels.shape[1] * times), round(pixels.shape[0] * times))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def on(slide: Slide, path: Path, times: float = 1.0) -> Slide:
    """Return the slide with the pixels of a file, which are so many times as many a side."""
    from mclstexp.data.images import open_image

    spots = replace(slide.spots, xy_px=slide.spots.xy_px * times)
    return replace(slide, image=open_image(path), spots=spots, mpp=slide.require_mpp() / times, mpp_source="given")


def predicted(reference: Reference, slide: Slide) -> Floats:
    """Predict a slide; what is doubted of it is no matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = reference.query(slide, thumbnail=False).mean
    if slide.image is not None:
        slide.image.close()
    return np.asarray(mean, dtype=np.float64)


def compared(name: str, first: Floats, other: Floats) -> dict[str, Any]:
    """Return how far the second prediction is from the first, ``(n, G)`` each."""
    spread = first.std(axis=0)
    known = np.isfinite(first).all(axis=0) & np.isfinite(other).all(axis=0) & (spread > 0)
    off = (other - first)[:, known] / spread[known]
    centred = [values[:, known] - values[:, known].mean(axis=0) for values in (first, other)]
    norms = np.maximum(np.prod([np.linalg.norm(values, axis=0) for values in centred], axis=0), 1e-12)
    correlation = (centred[0] * centred[1]).sum(axis=0) / norms
    return {
        "file": name,
        "difference": float(np.sqrt((off**2).mean())),
        "correlation": float(np.median(correlation)),
        "equal": bool(np.array_equal(first, other)),
    }


def rows(reference: Reference, slide: Slide, folder: Path) -> list[dict[str, Any]]:
    """Compare every file of the slide's pixels with the slide as published."""
    if slide.image is None:
        raise SystemExit(f"{slide.slide_id} has no image")
    pixels = slide.image.read_region(0, 0, *slide.image.size_px)
    first = predicted(reference, slide)
    found = []
    work: list[tuple[str, str, Callable[[Path, Pixels, float], None], float]]
    work = [(name, file, save, 1.0) for name, (file, save) in FILES.items()]
    work += [(f"TIFF of {times:.3g} times as many pixels a side", "r.tif", save_tiff, times) for times in PIXELS]
    say = her2st.pace("formats")
    for number, (name, file, save, times) in enumerate(work, 1):
        path = folder / file
        mpp = slide.require_mpp() / times
        save(path, pixels if times == 1.0 else resized(pixels, times), mpp)
        found.append(compared(name, first, predicted(reference, on(slide, path, times))))
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        say("files", number, len(work))
    return found


def scanned(reference: Reference, shared: Path) -> list[dict[str, Any]]:
    """Compare the DICOM with the Aperio slide that it was made from; nothing where they are not at hand."""
    from mclstexp.data.positions.query import read_query

    if not ((shared / APERIO).is_file() and (shared / DICOM).is_dir()):
        return []
    first = read_query(shared / APERIO, grid=GRID)
    other = read_query(shared / DICOM, grid=GRID)
    if first.image is None or other.image is None or first.image.size_px != other.image.size_px:
        return []
    answers = predicted(reference, first), predicted(reference, replace(other, spots=first.spots))
    return [compared(f"DICOM, beside the SVS that it was made from, {len(first)} points", *answers)]


def main() -> None:
    from mclstexp.index.reference import Reference

    options: argparse.Namespace = her2st.parse(her2st.parser(__doc__, "formats"))
    slides = {slide.slide_id: slide for slide in her2st.read(options, C)}
    training = [slide for name, slide in slides.items() if name != SECTION]
    query = slides[SECTION].take(np.arange(len(slides[SECTION])) % EVERY == 0)
    with tempfile.TemporaryDirectory(prefix="mst-formats-") as scratch:
        model = her2st.trained(options, training, her2st.model_config(options))
        reference = Reference.build(Path(scratch) / "reference", training, model)
        found = [*rows(reference, query, Path(scratch)), *scanned(reference, options.shared)]
    facts = her2st.facts(options)
    print(her2st.describe(facts))
    header = ["file", "difference", "correlation", "equal"]
    her2st.show(f"{len(query)} spots of {SECTION}", header, [[row[key] for key in header] for row in found])
    her2st.save(options, {"facts": facts, "spots": len(query), "rows": found})


if __name__ == "__main__":
    main()
