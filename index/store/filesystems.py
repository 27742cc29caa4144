"""File systems of object stores, for a reference's small files; LanceDB has its own way to the table."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mclstexp.errors import InputError
from mclstexp.index.store.remote import attempts, endpoint, option, scheme_of, seconds


def file_system(uri: str, options: Mapping[str, str]) -> tuple[Any, str]:
    """Return pyarrow's file system of a URI, and the path in it.

    Raises
    ------
    InputError
        When an option cannot be used, or one that is needed is lacking.
    """
    make = {"s3": _amazon, "gs": _google, "az": _azure}[scheme_of(uri)]
    return make(uri, options), uri.partition("://")[2]


def _known(values: Mapping[str, str | None]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _amazon(uri: str, options: Mapping[str, str]) -> Any:
    from pyarrow import fs

    times = attempts(options)
    access = {
        "access_key": option(options, "aws_access_key_id"),
        "secret_key": option(options, "aws_secret_access_key"),
        "session_token": option(options, "aws_session_token"),
        "region": option(options, "aws_region", "region", "aws_default_region"),
        "endpoint_override": endpoint(uri, options),
    }
    return fs.S3FileSystem(
        **_known(access),
        connect_timeout=seconds("connect_timeout", options),
        request_timeout=seconds("timeout", options) / times,  # so that all attempts together take this long
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=times),
        allow_delayed_open=True,  # a small file is one request, so that it is there whole or not at all
        background_writes=False,
    )


def _azure(uri: str, options: Mapping[str, str]) -> Any:
    from pyarrow import fs

    account = option(options, "azure_storage_account_name", "account_name")
    if account is None:
        raise InputError(
            f"{uri}: the storage account is not known; give AZURE_STORAGE_ACCOUNT_NAME, or --storage-option "
            "account_name=..."
        )
    access = {
        "account_key": option(
            options, "azure_storage_account_key", "azure_storage_access_key", "account_key", "access_key"
        ),
        "sas_token": option(options, "azure_storage_sas_token", "azure_storage_sas_key", "sas_token", "sas_key"),
        "client_id": option(options, "azure_storage_client_id", "client_id"),
        "client_secret": option(options, "azure_storage_client_secret", "client_secret"),
        "tenant_id": option(options, "azure_storage_tenant_id", "tenant_id"),
    }
    places: dict[str, str] = {}
    if (address := endpoint(uri, options)) is not None:
        parts = urlsplit(address)
        host = parts.netloc.removeprefix(account)  # pyarrow puts the account before what begins with a dot
        places = {"blob_storage_scheme": parts.scheme, "dfs_storage_scheme": parts.scheme}
        places |= {"blob_storage_authority": host, "dfs_storage_authority": host.replace(".blob.", ".dfs.")}
    return fs.AzureFileSystem(account, **_known(access), **places)


def _google(uri: str, options: Mapping[str, str]) -> Any:
    from pyarrow import fs

    unused = [name for name in options if name.startswith("google_service_account")]
    if unused:
        raise InputError(
            f"--storage-option {unused[0]} does not reach all of a reference in gs://; name the key file in "
            "GOOGLE_APPLICATION_CREDENTIALS."
        )
    limit = datetime.timedelta(seconds=seconds("client_retry_timeout", options))
    places: dict[str, str] = {}
    if (address := endpoint(uri, options)) is not None:
        parts = urlsplit(address)
        places = {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    return fs.GcsFileSystem(retry_time_limit=limit, **places)
