"""Object stores: which can hold a reference, how they are reached, and what they refuse, in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from mclstexp.errors import InputError, StorageError
from mclstexp.text import is_whole

SCHEMES = ("s3", "gs", "az")
"""What may stand before ``://``. ``docs/store.md`` says which of them was tried with what."""

TIMES = {
    "connect_timeout": "5s",
    "timeout": "20s",
    "client_max_retries": "3",
    "client_retry_timeout": "20",
    "download_retry_count": "0",
}
"""What LanceDB and pyarrow are told unless it is given otherwise: a silent store is given up, not waited for.

Lance asks four times by itself, each time as these say; so the longest wait is four times ``timeout``.
"""

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
"""The environment's names of what a store asks for."""

_ALIASES = {
    "s3": {"endpoint": "aws_endpoint", "aws_endpoint_url": "aws_endpoint", "region": "aws_region",
           "access_key_id": "aws_access_key_id", "secret_access_key": "aws_secret_access_key",
           "session_token": "aws_session_token", "aws_token": "aws_session_token"},
    "az": {"endpoint": "azure_storage_endpoint", "azure_endpoint": "azure_storage_endpoint",
           "account_name": "azure_storage_account_name", "account_key": "azure_storage_account_key",
           "access_key": "azure_storage_account_key", "azure_storage_access_key": "azure_storage_account_key",
           "sas_key": "azure_storage_sas_key", "sas_token": "azure_storage_sas_key",
           "azure_storage_sas_token": "azure_storage_sas_key", "client_id": "azure_storage_client_id",
           "client_secret": "azure_storage_client_secret", "tenant_id": "azure_storage_tenant_id"},
    "gs": {},
}  # fmt: skip
"""Short names of options: Lance asks the environment unless the long one is given, so that a short one may lose."""

_ENDPOINTS = {
    "s3": ("aws_endpoint", "endpoint", "aws_endpoint_url"),
    "az": ("azure_storage_endpoint", "azure_endpoint", "endpoint"),
    "gs": ("google_base_url", "endpoint"),
}
_USUAL = {"s3": "Amazon", "az": "Microsoft", "gs": "Google"}

_CREDENTIALS = (r"ACCESS_DENIED|AccessDenied|INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH"
                r"|SignatureDoesNotMatch|EXPIRED_TOKEN|ExpiredToken|InvalidToken|INVALID_CLIENT_TOKEN_ID"
                r"|InvalidClientTokenId|UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION_TOKEN|Unauthorized"
                r"|CredentialsNotLoaded|AuthenticationFailed|AuthorizationFailure|InvalidAuthenticationInfo"
                r"|(HTTP status code:|HTTP response code|HTTP status) 40[13]\b|40[13] Forbidden|40[13] Server failed"
                r"|Could not create a OAuth2 access token|token request")  # fmt: skip
_BUCKET = r"NO_SUCH_BUCKET|NoSuchBucket|ContainerNotFound|The specified bucket does not exist"
_FULL = (r"InsufficientStorage|QuotaExceeded|StorageFull|\b507\b[^/]*Insufficient"
         r"|(HTTP status code:|HTTP response code|HTTP status|code:) 507\b")  # fmt: skip
_BROKEN = (r"SLOW_DOWN|SlowDown|INTERNAL_FAILURE|InternalError|SERVICE_UNAVAILABLE|ServiceUnavailable|ServerBusy"
           r"|THROTTLING|\b50[0234] (Internal|Bad|Service|Gateway)|\b429 Too Many"
           r"|(HTTP status code:|HTTP response code|HTTP status) (50[0234]|429)\b")  # fmt: skip
_NETWORK = (r"NETWORK_CONNECTION|REQUEST_TIMEOUT|error sending request|Timeout was reached|timed out|Could not resolve"
            r"|Could not connect|Couldn't connect|Couldn't resolve|Connection refused|error decoding response body"
            r"|Fail to get a new connection|request or response body error|connection closed before"
            r"|Could not establish connection")  # fmt: skip


def scheme_of(uri: str) -> str:
    """Return what stands before ``://``."""
    return uri.partition("://")[0]


def named(uri: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return options under their long names, so that each goes before the environment's."""
    aliases = _ALIASES.get(scheme_of(uri), {})
    lower = {name.lower(): value for name, value in options.items()}
    return {aliases.get(name, name): value for name, value in lower.items()}


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


def endpoint(uri: str, options: Mapping[str, str]) -> str | None:
    """Return the address of the store, where it is not the usual one of its kind."""
    return option(options, *_ENDPOINTS[scheme_of(uri)])


def seconds(name: str, options: Mapping[str, str]) -> float:
    """Return one of `TIMES` as it is given, in seconds.

    Raises
    ------
    InputError
        When it is not written as "5s", "500ms", "2m" or a number.
    """
    text = options.get(name, TIMES[name])
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) ?(ms|s|m|)", text.strip())
    if parts is None or float(parts[1]) <= 0:
        raise InputError(f"--storage-option {name}={text} is no time; 30s, 500ms or 2m is needed.")
    return float(parts[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}[parts[2]]


def attempts(options: Mapping[str, str]) -> int:
    """Return how often a request is tried in all.

    Raises
    ------
    InputError
        When the number of retries is none.
    """
    text = options.get("client_max_retries", TIMES["client_max_retries"])
    if not is_whole(text):
        raise InputError(f"--storage-option client_max_retries={text} is no number of retries; 3 or 0 is one.")
    return int(text) + 1


def check_reachable(uri: str, files: Any, root: str, options: Mapping[str, str]) -> None:
    """Look once at the folder, so that a store that cannot be used is said at once and in one line.

    Raises
    ------
    InputError, StorageError
        An unencrypted address that was not allowed; no such bucket, wrong credentials, no answer.
    """
    from pyarrow import fs

    address = endpoint(uri, options) or ""
    if address.startswith("http://") and not _http_is_allowed(options):
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
        raise refusal(error, uri, options) or StorageError(f"{uri}: {first_line(error)}.") from error
    if not there:
        raise _no_bucket(uri)


def _http_is_allowed(options: Mapping[str, str]) -> bool:
    return option(options, "allow_http", "aws_allow_http", "azure_storage_allow_http") is not None


def refusal(error: BaseException, uri: str, options: Mapping[str, str]) -> StorageError | None:
    """Return the one line for what a store or the network refused; None for anything else."""
    text, scheme = str(error), scheme_of(uri)
    if re.search(_BUCKET, text):
        return _no_bucket(uri)
    if re.search(_FULL, text):
        return StorageError(
            f"{uri}: the store is full, or its quota is used up; free some space there and run the command again."
        )
    if re.search(_CREDENTIALS, text):
        return StorageError(
            f"{uri}: the store refuses access; check {_KEYS[scheme]}, or give them with --storage-option."
        )
    if re.search(_BROKEN, text):
        return StorageError(
            f"{uri}: the store answers that it is overloaded or broken ({_answer(text)}); run the command again later."
        )
    if re.search(_NETWORK, text):
        at = endpoint(uri, options) or "its usual address"
        name = _ENDPOINTS[scheme][0].upper()
        return StorageError(
            f"{uri}: the store does not answer at {at}; check the network, and {name} where it is not "
            f"{_USUAL[scheme]}'s."
        )
    return None


def _answer(text: str) -> str:
    """Return what a store said of itself, shortly."""
    match = re.search(_BROKEN, text)
    return match[0].partition(":")[2].strip() or match[0] if match else ""


def _no_bucket(uri: str) -> StorageError:
    bucket = uri.partition("://")[2].partition("/")[0]
    kind = "container" if scheme_of(uri) == "az" else "bucket"
    return StorageError(f"{uri}: there is no {kind} {bucket}; make it first, or correct the name.")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
