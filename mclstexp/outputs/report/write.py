"""Predictions to one page on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from mclstexp.errors import InputError
from mclstexp.notes import warn
from mclstexp.outputs.report.data import PageOptions, prediction_data
from mclstexp.outputs.report.page import page_html
from mclstexp.predict.prediction import Prediction
from mclstexp.storage import check_output, new_file
from mclstexp.text import counted, some
from mclstexp.types import Progress, StrPath

IMAGE_PX, PATCHES = 4096, 1500
ABSENT = "The page has no such gene; mst query --genes predicts any that the reference measured."
LARGE_BYTES = 30 * 10**6
"""A page above this size is slow to open; it is said with what makes it smaller."""


def report(
    predictions: Prediction | StrPath | Sequence[Prediction | StrPath],
    path: StrPath,
    *,
    title: str = "",
    reference: StrPath | None = None,
    image_px: int = IMAGE_PX,
    patches: int = PATCHES,
    force: bool = False,
    storage_options: Mapping[str, str] | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Write one self-contained page that shows predictions with their evidence; a browser opens it without internet.

    Parameters
    ----------
    predictions
        One or several, or the paths of their ``.h5ad`` files. Several stand side by side with one choice of gene.
    path
        The ``.html`` to write.
    title
        Title of the page; "" names the slides.
    reference
        Where the predictions' reference is, a folder or a URI such as ``s3://bucket/reference``, when it is not in the
        folder that they say.
    image_px
        Longer side of a slide's picture, in pixels; several slides share the pixels of one.
    patches
        How many patches of neighbours are kept, over all predictions; 0 for none.
    force
        Whether to replace an existing file.
    storage_options
        Of the object store where the reference lies; what they lack comes from the environment.
    on_progress
        Called with (step, done, total).

    Returns
    -------
    The path of the page.

    Raises
    ------
    InputError
        When there is no prediction, a file is none, or ``path`` is no ``.html``.
    InputError, FormatError, DownloadError
        When ``reference`` is given and cannot be read, or is not the predictions' own.
    ExistsAlreadyError
        When ``path`` exists and ``force`` is not set.
    StorageError
        When the operating system refuses the write, or the object store cannot be used.

    Examples
    --------
    >>> from mclstexp.outputs.report import report
    >>> report("slide.h5ad", "slide.html").name
    'slide.html'
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"A report is an .html file, got {path.name!r}; give it that suffix.")
    check_output(path, force=force)
    loaded = [_loaded(one) for one in _listed(predictions)]
    if not loaded:
        raise InputError("There is no prediction to report on.")
    share = len(loaded)
    side_px = max(256, round(image_px / math.sqrt(share)))
    options = PageOptions(side_px, patches // share, reference, on_progress, storage_options)
    names = page_names([(one.slide_id, file) for one, file in loaded])
    items = [
        prediction_data(prediction, name, file.parent if file else Path(), options)
        for (prediction, file), name in zip(loaded, names, strict=True)
    ]
    for item in items:
        _say(item)
    text = page_html(
        title or f"{some(names)}: predicted expression", {"mode": "file", "absent": ABSENT, "predictions": items}
    )
    with new_file(path, force=force) as whole:
        whole.write_text(text, encoding="utf-8")
    if path.stat().st_size > LARGE_BYTES:
        warn(
            f"{path} has {path.stat().st_size / 1e6:.0f} MB, above {LARGE_BYTES / 1e6:.0f}, and will open slowly; "
            "fewer genes (mst query --genes), --image-px or --patches make it smaller, and mst serve needs no page."
        )
    return path


def _listed(predictions: Prediction | StrPath | Sequence[Prediction | StrPath]) -> list[Prediction | StrPath]:
    return [predictions] if isinstance(predictions, Prediction | str | PathLike) else list(predictions)


def _loaded(one: Prediction | StrPath) -> tuple[Prediction, Path | None]:
    return (one, None) if isinstance(one, Prediction) else (Prediction.load(one), Path(one))


def page_names(slides: Sequence[tuple[str, Path | None]]) -> list[str]:
    """Name predictions by slide, and by file or number where slides repeat."""
    names = []
    for i, (slide, file) in enumerate(slides):
        again = sum(other == slide for other, _ in slides) > 1
        names.append(f"{slide} ({file.stem if file else i + 1})" if again else slide)
    return names


def _say(item: dict[str, object]) -> None:
    """Warn where a page had to do without the slide's image or its neighbours' patches."""
    image = item["image"]
    origin = str(image["origin"]) if isinstance(image, dict) else ""
    if origin.startswith(("no picture", "the prediction's own")):
        warn(f"{item['name']}: {origin}.")
    if item["patches_note"] and item["patches_note"] != "no patches were asked for":
        warn(f"{item['name']}: no patches of neighbours: {item['patches_note']}.")
    patches = item["patches"]
    missing = patches["missing"] if isinstance(patches, dict) else {}
    if missing:
        by_reason = {why: [slide for slide in missing if missing[slide] == why] for why in missing.values()}
        told = "; ".join(f"{some(slides, 3)}: {why}" for why, slides in by_reason.items())
        warn(f"{item['name']}: no patches from {counted(len(missing), 'slide')} of the reference ({told}).")
