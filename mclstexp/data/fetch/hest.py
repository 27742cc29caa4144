"""Samples of HEST-1k from the Hugging Face hub (dataset MahmoodLab/hest), by organ, species, technology or id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mclstexp.data.fetch.download import FetchedFiles, RemoteFile, require_host
from mclstexp.data.fetch.hub import hub_file, hub_listed, hub_refusals
from mclstexp.data.readers.hest import read_catalogue, version_of
from mclstexp.errors import DownloadError, InputError
from mclstexp.notes import warn
from mclstexp.storage import storage_errors
from mclstexp.text import counted, some
from mclstexp.types import Progress, StrPath

REPOSITORY = "MahmoodLab/hest"


@dataclass(frozen=True)
class HestFilter:
    """Which samples, each by what the dataset's table says, whatever the case; None takes any.

    Attributes
    ----------
    organ, species, technology, oncotree
        Values of the columns organ, species, st_technology and oncotree_code.
    ids
        Names of samples.
    """

    organ: str | None = None
    species: str | None = None
    technology: str | None = None
    oncotree: str | None = None
    ids: tuple[str, ...] = ()

    def choose(self, rows: dict[str, dict[str, str]]) -> list[str]:
        """Return the names of the samples.

        Raises
        ------
        InputError
            When there is none; names the values that there are.
        """
        unknown = [name for name in self.ids if name not in rows]
        if unknown:
            raise InputError(f"HEST-1k has no sample {unknown[0]!r}; it has {some(sorted(rows))}.")
        left = {name: rows[name] for name in self.ids or rows}
        for option, column, value in (
            ("--organ", "organ", self.organ),
            ("--species", "species", self.species),
            ("--technology", "st_technology", self.technology),
            ("--oncotree", "oncotree_code", self.oncotree),
        ):
            if value is None:
                continue
            values = sorted({row.get(column, "") for row in left.values()} - {""})
            left = {name: row for name, row in left.items() if row.get(column, "").lower() == value.strip().lower()}
            if not left:
                raise InputError(
                    f"No sample of HEST-1k has {column} {value!r} ({option}); there are {some(values, 40)}."
                )
        return sorted(left)


def fetch_hest(
    output: StrPath,
    which: HestFilter,
    *,
    images: bool = True,
    endpoint: str | None = None,
    dry_run: bool = False,
    on_progress: Progress | None = None,
) -> FetchedFiles:
    """Fetch samples with their counts, whole-slide images and metadata; a call that was interrupted goes on.

    The dataset asks for its licence to be accepted on its page, and for a token: ``hf auth login`` or ``$HF_TOKEN``.

    Parameters
    ----------
    output
        The folder to fill.
    which
        The choice of samples.
    images
        Whether to fetch the whole-slide images, which are most of the bytes.
    endpoint
        Address of the hub; None is the hub's own (or ``$HF_ENDPOINT``).
    dry_run
        List files and bytes; of the dataset only its table is fetched, into no place of the user's.
    on_progress
        Called with "fetching", how many files are there, and how many there are.

    Raises
    ------
    DownloadError
        Without network, token or licence, or when a file is not what the hub says.
    InputError
        When no sample is chosen.
    """
    import tempfile

    from huggingface_hub import HfApi

    api: Any = HfApi(endpoint=endpoint)
    require_host(str(api.endpoint))
    output = Path(output)
    with hub_refusals(REPOSITORY), tempfile.TemporaryDirectory() as scratch:
        commit = str(api.dataset_info(REPOSITORY, expand=["sha"]).sha)
        tables = [
            entry.path
            for entry in api.list_repo_tree(REPOSITORY, repo_type="dataset", revision=commit)
            if entry.path.startswith("HEST_v") and entry.path.endswith(".csv")
        ]
        if not tables:
            raise DownloadError(f"{REPOSITORY} has no table HEST_v*.csv; its layout has changed.")
        table = max(tables, key=version_of)
        place = Path(scratch) if dry_run else output
        hub_file(api, REPOSITORY, table, commit, place)
        names = which.choose(read_catalogue(place))
        wanted = [f"{part}/{name}{end}" for name in names for part, end in _parts(images)]
        files = [*hub_listed(api, REPOSITORY, [table, *wanted], commit)]
        absent = sorted(set(wanted) - {file.path for file in files})
        if absent:
            warn(f"the dataset lacks {counted(len(absent), 'file')} of these samples ({some(absent, 3)}).")
        if dry_run:
            return FetchedFiles(output, tuple(files))
        kept = 0
        for done, file in enumerate(files, start=1):
            kept += _fetch(api, file, commit, output)
            if on_progress:
                on_progress("fetching", done, len(files))
    return FetchedFiles(output, tuple(files), len(files) - kept, kept)


def _parts(images: bool) -> Sequence[tuple[str, str]]:
    return (("st", ".h5ad"), ("metadata", ".json"), *((("wsis", ".tif"),) if images else ()))


def _fetch(api: Any, file: RemoteFile, commit: str, output: Path) -> bool:
    """Fetch one file and check it; whether it was there already."""
    target = output / file.path
    with storage_errors(target):
        there = target.is_file()
        if there and file.fits(target):
            return True
        hub_file(api, REPOSITORY, file.path, commit, output, again=there)
        if file.fits(target):
            return False
        target.unlink()
    raise DownloadError(f"{file.path} is not what the hub says ({file.size} bytes, its hash); it was not kept.")
