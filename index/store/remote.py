"""Object stores: which can hold a reference, how they are reached, and what they refuse, in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from mclstexp.errors import InputError, StorageError

SCHEMES = ("s3", "gs")
"""What may stand before ``://``. Only ``s3`` is tested; ``gs`` is passed on to LanceDB and pyarrow as it is."""

TIMES = {"connect_timeout": "5s", "request_timeout": "10s", "client_max_retries": "3", "client_retry_timeout": "30"}
"""What LanceDB is told unless it is given otherwise: a store that is silent is given up, not waited for."""

_CONNECT_S, _SILENT_S, _ATTEMPTS = 5, 10, 3

_CREDENTIALS = ("ACCESS_DENIED", "AccessDenied", "INVALID_ACCESS_KEY_ID", "InvalidAccessKeyId",
                "SIGNATURE_DOES_NOT_MATCH", "SignatureDoesNotMatch", "EXPIRED_TOKEN", "ExpiredToken", "InvalidToken",
                "INVALID_CLIENT_TOKEN_ID",
                "InvalidClientTokenId", "UNRECOGNIZED_CLIENT", "MISSING_AUTHENTICATION_TOKEN", "HTTP status code: 403",
                "403 Forbidden", "HTTP response code 403", "Unauthorized", "CredentialsNotLoaded")  # fmt: skip
_BUCKET = ("NO_SUCH_BUCKET", "NoSuchBucket")
_NETWORK = ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "error sending request", "Timeout was reached", "timed out",
            "Could not resolve", "Could not connect")  # fmt: skip


def check_uri(uri: str) -> None:
    """Refuse a URI that cannot name a reference.

    Raises
    ------
    InputError
        Another scheme, no bucket, no folder in it, or something beside them (credentials, a question mark).
    """
    scheme, _, path = uri.partition("://")
    if scheme not in SCHEMES:
        known = " or ".join(f"{name}://" for name in SCHEMES)
        raise InputError(f"{_shown(uri)}: a reference lies in a folder or at {known}, not at {scheme}://.")
    if "@" in path:
        raise InputError(
            f"{_shown(uri)}: credentials do not belong into the address; give them in the environment or with "
            "--storage-option."
        )
    bucket, _, folder = path.partition("/")
    if not bucket or not folder.strip("/") or re.search(r"[?#]|//", path.rstrip("/")):
        raise InputError(f"{uri} does not name a folder of a bucket; it is written {scheme}://bucket/reference.")


def _shown(uri: str) -> str:
    """Return a URI without what may be a secret in it."""
    scheme, _, path = uri.partition("://")
    return f"{scheme}://{path.rpartition('@')[2]}"


def option(options: Mapping[str, str], *names: str) -> str | None:
    """Return the first of these options that is given, or else set in the environment."""
    given = [options.get(name) for name in names] + [os.environ.get(name.upper()) for name in names]
    return next((value for value in given if value), None)


def endpoint(options: Mapping[str, str]) -> str | None:
    """Return the address of the store, where it is not Amazon's."""
    return option(options, "aws_endpoint", "endpoint", "aws_endpoint_url")


def file_system(uri: str, options: Mapping[str, str]) -> tuple[Any, str]:
    """Return the file system of a URI, and the path in it."""
    from pyarrow import fs

    if not uri.startswith("s3://"):
        found: tuple[Any, str] = fs.FileSystem.from_uri(uri)
        return found
    access = {
        "access_key": option(options, "aws_access_key_id"),
        "secret_key": option(options, "aws_secret_access_key"),
        "session_token": option(options, "aws_session_token"),
        "region": option(options, "aws_region", "region", "aws_default_region"),
        "endpoint_override": endpoint(options),
    }
    given = {name: value for name, value in access.items() if value}
    store = fs.S3FileSystem(
        **given,
        connect_timeout=_CONNECT_S,
        request_timeout=_SILENT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )
    return store, uri[len("s3://") :]


def check_reachable(uri: str, files: Any, root: str, options: Mapping[str, str]) -> None:
    """Look once at the folder, so that a store that cannot be used is said at once and in one line.

    Raises
    ------
    InputError, StorageError
        An unencrypted address that was not allowed; no such bucket, wrong credentials, no answer.
    """
    from pyarrow import fs

    address = endpoint(options) or ""
    if address.startswith("http://") and option(options, "allow_http", "aws_allow_http") is None:
        raise InputError(
            f"{uri}: the store's address {address} is not encrypted; allow it with --storage-option allow_http=true, "
            "or AWS_ALLOW_HTTP=true."
        )
    try:
        if files.get_file_info(fs.FileSelector(root, allow_not_found=True)):
            return
        bucket = root.partition("/")[0]
        there = files.get_file_info(bucket).type != fs.FileType.NotFound
    except OSError as error:
        raise refusal(error, uri, options) or StorageError(f"{uri}: {_first_line(error)}.") from error
    if not there:
        raise _no_bucket(uri)


def refusal(error: BaseException, uri: str, options: Mapping[str, str]) -> StorageError | None:
    """Return the one line for what a store or the network refused; None for anything else."""
    text = str(error)
    if any(part in text for part in _BUCKET):
        return _no_bucket(uri)
    if any(part in text for part in _CREDENTIALS):
        return StorageError(
            f"{uri}: the store refuses access; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or give "
            "them with --storage-option."
        )
    if any(part in text for part in _NETWORK):
        at = endpoint(options) or "its usual address"
        return StorageError(
            f"{uri}: the store does not answer at {at}; check the network, and AWS_ENDPOINT where it is not Amazon's."
        )
    return None


def _no_bucket(uri: str) -> StorageError:
    bucket = uri.partition("://")[2].partition("/")[0]
    return StorageError(f"{uri}: there is no bucket {bucket}; make it first, or correct the name.")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
