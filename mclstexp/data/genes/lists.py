"""Lists of gene names, from files and command lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mclstexp.data.anndata_file import reason
from mclstexp.data.paths import read_json, require_file
from mclstexp.data.tables import delimiter_of, first_line, read_table
from mclstexp.errors import InputError
from mclstexp.text import some
from mclstexp.types import StrPath

if TYPE_CHECKING:
    import pandas as pd


_GENE_COLUMNS = (
    "gene", "genes", "symbol", "symbols", "gene_symbol", "gene_name", "gene_id", "gene_ids", "ensembl", "ensembl_id",
    "name", "names", "feature", "feature_name",
)  # fmt: skip

_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}

_UNPICKLE = "pickled files are never opened, as that can run code; save the names as text, one a line"


def read_gene_list(path: StrPath) -> list[str]:
    """Read gene names: one a line, JSON (a list, or ``{"genes": [...]}``), CSV (also with flags), or ``.npy`` of text.

    Returns
    -------
    The names in the file's order; repeated ones are kept.

    Raises
    ------
    InputError
        When the file is missing, pickled, empty, or does not tell which names are meant.
    """
    path = require_file(path, "Gene list")
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":
        names = _from_npy(path)
    elif magic[:1] == b"\x80":
        raise InputError(f"Gene list {path.name} is a pickle: {_UNPICKLE}.")
    elif first_line(path).lstrip()[:1] in ("{", "["):
        names = _from_json(path)
    else:
        names = _from_text(path)
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise InputError(f"Gene list {path} names no gene; write one a line.")
    return names


def parse_genes(arg: str) -> list[str]:
    """Read genes from a command line: the path of a gene list, or names separated by commas.

    Raises
    ------
    InputError
        When it names no gene, or looks like the path of a file that does not exist.
    """
    if Path(arg).is_file():
        return read_gene_list(Path(arg))
    if re.search(r"\.(txt|json|csv|tsv|npy)$", arg) or "/" in arg:
        raise InputError(f"Gene list {arg} does not exist; correct the path.")
    names = [name.strip() for name in arg.split(",") if name.strip()]
    if not names:
        raise InputError("No gene is named; give names separated by commas, such as ERBB2,CD3E, or a file.")
    return names


def _from_npy(path: Path) -> list[str]:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, it has to be as long as it says
    except (ValueError, OSError, EOFError, OverflowError, MemoryError) as error:
        if "allow_pickle" in str(error) or "bject" in str(error):
            raise InputError(f"Gene list {path.name} is a pickled array: {_UNPICKLE}.") from error
        raise InputError(f"Gene list {path.name} is damaged: {reason(error)}; copy it again.") from error
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind != "U":
        raise InputError(f"Gene list {path.name} holds {values.dtype}, not text.")
    return [str(name) for name in values.ravel()]


def _from_json(path: Path) -> list[str]:
    values = read_json(path, "Gene list")
    if isinstance(values, dict):
        values = values.get("genes")
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise InputError(f'Gene list {path.name}: a list of names is needed, or {{"genes": [...]}}.')
    return values


def _from_text(path: Path) -> list[str]:
    line = first_line(path)
    if line.count(delimiter_of(line)) == 0:
        lines = read_table(path, header=["name"])["name"].astype(str).tolist()
        names = [name.strip() for name in lines if not name.lstrip().startswith("#")]
        return names[1:] if names and names[0].lower() in _GENE_COLUMNS else names
    frame = read_table(path)
    frame.columns = [str(name).strip().lower() for name in frame.columns]
    if not len(frame):
        return [cell.strip().strip('"') for cell in line.split(delimiter_of(line))]  # one line of names
    first = str(frame.columns[0])
    unnamed = first if first in ("", "index") else None
    column = next((name for name in _GENE_COLUMNS if name in frame.columns), unnamed)
    if column is None:
        raise InputError(
            f"Gene list {path.name}: none of its columns ({some(map(str, frame.columns))}) is called gene or "
            "symbol; rename the one that holds the names."
        )
    flags = [str(name) for name in frame.columns if name != column and _is_flag(frame[name])]
    named = [name for name in flags if name in ("highly_variable", "selected", "in_panel", "keep", "use", "hvg")]
    flags = named or flags
    if len(flags) > 1:
        raise InputError(f"Gene list {path.name} has several flags ({some(flags)}); keep the one that chooses.")
    kept = frame[column] if not flags else frame[column][[_FLAGS[cell.strip().lower()] for cell in frame[flags[0]]]]
    return [str(name) for name in kept]


def _is_flag(column: pd.Series) -> bool:
    cells = {str(cell).strip().lower() for cell in column}
    return cells <= set(_FLAGS) and bool(cells - {""})
