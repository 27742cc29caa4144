"""Finding again the reference that a prediction was made from."""

from __future__ import annotations

from pathlib import Path

from mclstexp.errors import InputError
from mclstexp.index.reference import Reference
from mclstexp.notes import warn
from mclstexp.predict.prediction import Prediction
from mclstexp.types import StrPath


def reference_of(
    prediction: Prediction, given: StrPath | None = None, *, version: int | str | None = None, beside: StrPath = "."
) -> Reference:
    """Open the reference that a prediction was made from, at the version that it was made from.

    Parameters
    ----------
    given
        Its folder or URI where it lies now; None takes what the prediction recorded, here or beside its file.
    version
        Number or tag; None takes the recorded one, or the newest where that is no longer there, with a warning.
    beside
        Folder of the prediction's file, against which a recorded relative path is tried, too.

    Raises
    ------
    InputError, FormatError
        There is no reference there, or it has no such version; it is damaged.
    """
    place = str(given) if given is not None else _recorded(prediction, Path(beside))
    wanted = version if version is not None else prediction.settings.get("reference_version")
    if wanted is None or version is not None:
        return Reference.open(place, version=version, device="cpu")
    newest = Reference.open(place, device="cpu")
    if newest.version == wanted:
        return newest
    try:
        return Reference.open(place, version=int(wanted), device="cpu")
    except InputError:
        warn(
            f"{place} no longer has version {wanted}, from which the prediction was made; version {newest.version} "
            "is read."
        )
        return newest


def _recorded(prediction: Prediction, beside: Path) -> str:
    recorded = str(prediction.settings.get("reference", ""))
    if not recorded:
        raise InputError("The prediction does not say which reference it was made from; name it with --reference.")
    if "://" in recorded:
        return recorded
    for folder in (Path(recorded), beside / recorded):
        if folder.is_dir():
            return str(folder)
    raise InputError(
        f"The reference that the prediction was made from is no longer at {recorded}; say where it is with --reference."
    )
