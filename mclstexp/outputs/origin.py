"""Finding again the reference that a prediction was made from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mclstexp.errors import FormatError, InputError
from mclstexp.index.reference import Reference
from mclstexp.notes import warn
from mclstexp.predict.prediction import Prediction
from mclstexp.types import Device, StrPath


def reference_of(
    prediction: Prediction,
    given: StrPath | None = None,
    *,
    version: int | str | None = None,
    beside: StrPath = ".",
    device: Device = "cpu",
    cache: bool = True,
    storage_options: Mapping[str, str] | None = None,
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
    device, cache
        Where it searches and computes, and whether image features are kept on disk.
    storage_options
        Of the object store where it lies; what they lack comes from the environment.

    Raises
    ------
    InputError, FormatError
        There is no reference there, or it has no such version; it is damaged.
    """
    place = str(given) if given is not None else _recorded(prediction, Path(beside))
    wanted = version if version is not None else prediction.settings.get("reference_version")
    access = partial(Reference.open, place, device=device, cache=cache, storage_options=storage_options)
    if wanted is None or version is not None:
        return access(version=version)
    newest = access()
    if newest.version == wanted:
        return newest
    try:
        return access(version=int(wanted))
    except InputError:
        warn(
            f"{place} no longer has version {wanted}, from which the prediction was made; version {newest.version} "
            "is read."
        )
        return newest


def reference_at_hand(
    prediction: Prediction,
    given: StrPath | None = None,
    *,
    beside: StrPath = ".",
    device: Device = "cpu",
    cache: bool = True,
    storage_options: Mapping[str, str] | None = None,
) -> tuple[Reference | None, str]:
    """Open the reference of a prediction at its version, or say why it is not at hand.

    Parameters
    ----------
    given, beside, device, cache, storage_options
        As in `reference_of`.

    Returns
    -------
    The reference, or None and why.

    Raises
    ------
    InputError, FormatError
        When ``given`` is no reference, or not the one that the prediction was made from.
    """
    version = prediction.settings.get("reference_version")
    try:
        opened = reference_of(
            prediction,
            given,
            version=version,
            beside=beside,
            device=device,
            cache=cache,
            storage_options=storage_options,
        )
        _check_model(opened, prediction)
    except (InputError, FormatError) as error:
        if given is not None:
            raise
        return None, as_reason(error)
    return opened, ""


def as_reason(error: Exception) -> str:
    """Return an error's sentence as the rest of another sentence."""
    text = str(error).rstrip(".")
    return text[:1].lower() + text[1:]


def _check_model(opened: Reference, prediction: Prediction) -> None:
    digest = opened.store.identity.model_digest
    if digest != prediction.settings.get("model"):
        raise InputError(
            f"The reference {opened.path} holds the model {digest[:12]}, the prediction was made with another; name "
            "its own reference with --reference."
        )


def _recorded(prediction: Prediction, beside: Path) -> str:
    recorded = str(prediction.settings.get("reference", ""))
    if not recorded:
        raise InputError("The prediction does not say which reference it was made from; name it with --reference.")
    if "://" in recorded:  # a file that somebody sent does not decide where this machine connects to
        raise InputError(
            f"The prediction says that its reference is at {recorded}; name it with --reference to connect there."
        )
    for folder in (Path(recorded), beside / recorded):
        if folder.is_dir():
            return str(folder)
    raise InputError(
        f"The reference that the prediction was made from is no longer at {recorded}; say where it is with --reference."
    )
