"""Where a published reference lies: a dataset of the Hugging Face hub, or a folder behind a web server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlparse

from mclstexp.errors import InputError

SCHEMES = ("hf", "https", "http")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,199}")


def is_published(target: str | os.PathLike[str]) -> bool:
    """Whether a reference is named that is read through a copy: ``hf://``, ``https://`` or ``http://``.

    Examples
    --------
    >>> is_published("hf://lab/breast"), is_published("s3://lab/breast"), is_published("reference/")
    (True, False, False)
    """
    return os.fspath(target).partition("://")[0] in SCHEMES and "://" in os.fspath(target)


@dataclass(frozen=True)
class Address:
    """A published reference's address.

    Attributes
    ----------
    uri
        As it is written.
    repository, revision
        Of a dataset on the hub; empty for a web server's folder. The revision is ``main`` unless another is named.
    endpoint
        The hub's address, where it is not the usual one.
    """

    uri: str
    repository: str = ""
    revision: str = "main"
    endpoint: str | None = None

    @classmethod
    def parse(cls, uri: str, options: Mapping[str, str] | None = None) -> Address:
        """Read an address.

        Parameters
        ----------
        uri
            ``hf://owner/name``, ``hf://owner/name@revision`` or ``https://host/folder``.
        options
            ``allow_http=true`` allows addresses without encryption, ``endpoint`` names another hub.

        Raises
        ------
        InputError
            When it cannot name a reference, or is not encrypted and that was not allowed.

        Examples
        --------
        >>> Address.parse("hf://lab/breast@v2").revision
        'v2'
        """
        given = {name.lower(): value for name, value in (options or {}).items()}
        scheme, _, path = uri.partition("://")
        known = {"allow_http", "endpoint"} if scheme == "hf" else {"allow_http"}
        strange = sorted(set(given) - known)
        if strange:
            raise InputError(f"--storage-option {strange[0]} is of no use for {scheme}://; leave it out.")
        if scheme == "hf":
            return cls._of_hub(uri, path, given)
        parts = urlparse(uri)
        if "@" in parts.netloc:
            raise InputError(
                f"{scheme}://{parts.netloc.rpartition('@')[2]}: credentials do not belong into an address."
            )
        if not parts.hostname or re.search(r"[?#\s]|//|/\.\.?(/|$)", path.rstrip("/")):
            raise InputError(f"{uri} does not name a folder of a web server; it is written https://host/folder.")
        _require_encryption(uri, uri, given)
        return cls(uri.rstrip("/"))

    @classmethod
    def _of_hub(cls, uri: str, path: str, given: Mapping[str, str]) -> Address:
        name, at, revision = path.removeprefix("datasets/").rstrip("/").partition("@")
        parts = name.split("/")
        wrong = len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts) or ".." in path or "--" in name
        if wrong or (at and not _REVISION.fullmatch(revision)):
            raise InputError(f"{uri} does not name a dataset of the hub; it is written hf://owner/name@revision.")
        endpoint = given.get("endpoint") or os.environ.get("HF_ENDPOINT") or None
        if endpoint is not None:
            _require_encryption(uri, endpoint, given)
        return cls(f"hf://{name}{at}{revision}", name, revision or "main", endpoint)


def _require_encryption(uri: str, address: str, given: Mapping[str, str]) -> None:
    if address.startswith("http://") and given.get("allow_http", "").lower() != "true":
        raise InputError(f"{uri}: {address} is not encrypted; allow it with --storage-option allow_http=true.")
