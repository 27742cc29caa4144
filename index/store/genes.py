"""Gene lists: files named by the SHA-256 of their bytes, a line a gene, its symbol and its Ensembl id."""

from __future__ import annotations

from mclstexp.errors import FormatError
from mclstexp.index.store.place import GENES, Place
from mclstexp.panel import GenePanel
from mclstexp.storage import sha256_bytes


def _bytes(panel: GenePanel) -> bytes:
    return "".join(f"{s}\t{e}\n" for s, e in zip(panel.symbols, panel.ensembl, strict=True)).encode()


def genes_digest(panel: GenePanel) -> str:
    """Return the name under which a panel is kept."""
    return sha256_bytes(_bytes(panel))


def genes_name(digest: str) -> str:
    """Path of a gene list."""
    return f"{GENES}/{digest}.tsv"


def keep_genes(place: Place, panel: GenePanel) -> str:
    """Write a panel unless it is there; return its digest."""
    data = _bytes(panel)
    digest = sha256_bytes(data)
    if place.read(genes_name(digest)) != data:
        place.write(genes_name(digest), data)
    return digest


def read_genes(place: Place, digest: str) -> GenePanel:
    """Read a panel.

    Raises
    ------
    FormatError
        When its file is missing or is not what its name says.
    """
    data = place.read(genes_name(digest))
    if data is None or sha256_bytes(data) != digest:
        state = "missing" if data is None else "damaged"
        raise FormatError(f"Reference {place}: the gene list {genes_name(digest)} is {state}; run mst verify.")
    pairs = [line.rpartition("\t") for line in data.decode().split("\n")[:-1]]
    return GenePanel(tuple(pair[0] for pair in pairs), tuple(pair[2] for pair in pairs))
