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
from mclstexp.types import IdArray


@dataclass(frozen=True, eq=False)
class GenePanel:
    """Ordered genes: symbols, and Ensembl ids where they are known ("" where not).

    Parameters
    ----------
    symbols
        Unique names, in the order of a matrix's columns.
    ensembl
        As many Ensembl ids, or none at all.

    Raises
    ------
    InputError
        When a symbol occurs twice, or there are not as many ids as symbols.

    Examples
    --------
    >>> genes = GenePanel(("ERBB2", "CD3E"), ("ENSG00000141736.14", "ENSG00000198851"))
    >>> genes
    GenePanel(2 genes: ERBB2, CD3E)
    >>> genes.find("CD3E"), genes.find("ENSG00000141736"), genes.find("NOPE")
    (1, 0, None)
    >>> genes.near("erbb2")
    ['ERBB2']
    """

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

    def __repr__(self) -> str:
        head = ", ".join(self.symbols[:3]) + (", ..." if len(self) > 3 else "")
        return f"GenePanel({len(self):,} genes{': ' if head else ''}{head})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the ordered symbols: two panels agree exactly when their digests do."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()

    @cached_property
    def position(self) -> dict[str, int]:
        """Symbol to column; `find` also knows Ensembl ids."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def find(self, name: str) -> int | None:
        """Return the column of a gene, or None where the panel does not have it.

        Parameters
        ----------
        name
            A symbol, or an Ensembl id with or without its version. Symbols come first, and are never shortened: a
            dot is part of a name such as FO538757.1.
        """
        column = self.position.get(name)
        return column if column is not None else self._by_id.get(_bare(name))

    def columns(self, other: GenePanel) -> IdArray:
        """Return where the genes of another panel are in this one, by symbol and then by Ensembl id.

        Returns
        -------
        ``(len(other),)`` int64 columns of this panel, -1 for a gene that it does not have.

        Examples
        --------
        >>> GenePanel(("ERBB2", "CD3E", "ACTB")).columns(GenePanel(("ACTB", "NOPE"))).tolist()
        [2, -1]
        """
        if other.symbols == self.symbols:
            return np.arange(len(self), dtype=np.int64)
        columns = np.full(len(other), -1, dtype=np.int64)
        for i, (symbol, identifier) in enumerate(zip(other.symbols, other.ensembl, strict=True)):
            column = self.find(symbol)
            if column is None and identifier:
                column = self.find(identifier)
            if column is not None:
                columns[i] = column
        return columns

    def near(self, name: str, n: int = 3) -> list[str]:
        """Return up to ``n`` symbols that look like a name, whatever their case, the nearest first."""
        folded = difflib.get_close_matches(name.casefold(), list(self._folded), n=n, cutoff=0.7)
        return [self._folded[text] for text in folded]

    def subset(self, columns: Sequence[int] | NDArray[np.int64]) -> GenePanel:
        """Return the panel of the given columns, in their order."""
        return GenePanel(
            tuple(self.symbols[i] for i in columns),
            tuple(self.ensembl[i] for i in columns),
        )

    @cached_property
    def _by_id(self) -> dict[str, int]:
        """Ensembl id without version to column; ids that stand as symbols count, too."""
        columns: dict[str, int] = {}
        for names in (self.ensembl, self.symbols):
            for i, name in enumerate(names):
                if name and (names is self.ensembl or name.startswith("ENS")):
                    columns.setdefault(_bare(name), i)
        return columns

    @cached_property
    def _folded(self) -> dict[str, str]:
        return {symbol.casefold(): symbol for symbol in reversed(self.symbols)}


def _bare(name: str) -> str:
    """Return the Ensembl id without its version; symbols with a dot (FO538757.1) stay as they are."""
    return re.sub(r"^(ENS[A-Z]*\d+)\.\d+$", r"\1", name)
