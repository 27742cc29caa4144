"""Files of a dataset on the Hugging Face hub, through the hub's own client, and what the hub refuses in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mclstexp.data.fetch.download import RemoteFile
from mclstexp.errors import DownloadError, UnreachableError
from mclstexp.storage import storage_errors


def hub_listed(api: Any, repository: str, paths: Sequence[str], commit: str) -> Iterator[RemoteFile]:
    """Yield those of the paths that the dataset has, with size and hash as the hub says them."""
    for begin in range(0, len(paths), 500):
        part = list(paths[begin : begin + 500])
        for entry in api.get_paths_info(repository, part, repo_type="dataset", revision=commit):
            lfs = getattr(entry, "lfs", None)
            git = getattr(entry, "blob_id", None) if lfs is None else None
            yield RemoteFile(entry.path, f"{repository}/{entry.path}", entry.size, lfs.sha256 if lfs else None, git)


def hub_file(api: Any, repository: str, path: str, commit: str, output: Path, *, again: bool = False) -> None:
    """Fetch one file into a folder, from where an earlier call stopped."""
    with storage_errors(output / path), hub_refusals(repository):  # the hub's errors are OSErrors: they are told first
        api.hf_hub_download(
            repository, path, repo_type="dataset", revision=commit, local_dir=output, force_download=again
        )


@contextmanager
def hub_refusals(repository: str) -> Iterator[None]:
    """Turn the hub's refusals into one line that says what to do.

    Raises
    ------
    UnreachableError
        When the hub cannot be reached, or is not to be asked.
    DownloadError
        For what else it refuses.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    page = f"https://huggingface.co/datasets/{repository}"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UnreachableError("$HF_HUB_OFFLINE is set: the hub is not asked; unset it to fetch.") from error
    except LocalEntryNotFoundError as error:
        raise UnreachableError(
            f"The hub cannot be reached ({type(error.__cause__ or error).__name__}); check the network."
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403, 404):
            raise DownloadError(
                f"The hub refuses {repository} ({status}): check the name; where it is gated, accept its licence at "
                f"{page}, then log in with hf auth login or set $HF_TOKEN."
            ) from error
        if status is None or status >= 500:
            raise UnreachableError(f"The hub fails ({status}); try again later.") from error
        raise DownloadError(f"The hub answered {status}: {str(error).splitlines()[0][:160]}.") from error
    except Exception as error:
        # The hub's client passes on what its HTTP library raises, of a class that depends on its version.
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "requests"):
            raise
        raise UnreachableError(f"The hub cannot be reached ({str(error)[:120]}); check the network.") from error
