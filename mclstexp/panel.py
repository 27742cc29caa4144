"""A gene panel: ordered genes, and the one way to look a gene up."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import InputError
from mclstexp.text import duplicates


@dataclass(frozen=True, eq=False)
class GenePanel:
    """Ordered genes: symbols, and Ensembl ids where they are known ("" where not)."""

    symbols: tuple[str, ...]
    ensembl: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(self.symbols))
        object.__setattr__(self, "ensembl", tuple(self.ensembl) or ("",) * len(self.symbols))
        if len(self.ensembl) != len(self.symbols):
            raise InputError(f"A gene panel has {len(self.symbols)} symbols but {len(self.ensembl)} Ensembl ids.")
        repeated = duplicates(self.symbols)
        if repeated:
            raise InputError(f"A gene panel names {len(repeated)} genes twice, for example {repeated[0]!r}.")

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenePanel) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the ordered symbols: two panels agree exactly when their digests do."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()

    @cached_property
    def position(self) -> dict[str, int]:
        """Symbol to column."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def find(self, name: str) -> int | None:
        """Return the column of a gene by symbol or Ensembl id, or None."""
        column = self.position.get(name)
        return self._by_id.get(_bare(name)) if column is None else column

    def columns(self, genes: GenePanel) -> NDArray[np.int64]:
        """Return each gene's column here ``(len(genes),)``, -1 for a gene that is not."""
        columns = []
        for symbol, identifier in zip(genes.symbols, genes.ensembl, strict=True):
            column = self.find(symbol)
            column = self.find(identifier) if column is None and identifier else column
            columns.append(-1 if column is None else column)
        return np.array(columns, dtype=np.int64)

    def near(self, name: str, n: int = 3) -> list[str]:
        """Return the symbols nearest to a name, whatever their case."""
        upper = {symbol.upper(): symbol for symbol in self.symbols}
        return [upper[key] for key in difflib.get_close_matches(name.upper(), upper, n=n, cutoff=0.6)]

    @cached_property
    def _by_id(self) -> dict[str, int]:
        return {_bare(identifier): i for i, identifier in reversed(list(enumerate(self.ensembl))) if identifier}

    def subset(self, columns: Sequence[int] | NDArray[np.int64]) -> GenePanel:
        """Return the panel of the given columns, in their order."""
        return GenePanel(
            tuple(self.symbols[i] for i in columns),
            tuple(self.ensembl[i] for i in columns),
        )


def _bare(name: str) -> str:
    """Return the Ensembl id without its version; symbols with a dot (FO538757.1) stay as they are."""
    return re.sub(r"^(ENS[A-Z]*\d+)\.\d+$", r"\1", name)
