"""The format's version, and what the table's schema says of the reference. `docs/format.md` is its description."""

from __future__ import annotations

import json
from typing import Any

from mclstexp.errors import FormatError, InputError, MclstexpError
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.place import MODELS, Place
from mclstexp.index.store.table import Table
from mclstexp.storage import canonical_json

FORMAT = "mclstexp-reference"
FORMAT_VERSION = 2
METADATA = b"mclstexp"
"""Key of the table's schema metadata that says what the reference is."""


def refuse_version_1(place: Place) -> None:
    """Refuse a reference of format version 1, with the command that builds it again.

    Raises
    ------
    FormatError
        When there is one.
    """
    data = place.read("manifest.json") if place.local is not None else None
    if data is None or f'"{FORMAT}"'.encode() not in data:
        return
    model = next(iter(sorted({f"{place}/{name.rpartition('/')[0]}" for name in place.names(MODELS)})), "MODEL")
    raise FormatError(
        f"Reference {place} has format version 1, this program reads {FORMAT_VERSION}; build it again from its slides: "
        f"mst build-index REFS --model {model} -o NEW."
    )


def read_metadata(place: Place, table: Table) -> dict[str, Any]:
    """Read what the table says of the reference.

    Raises
    ------
    InputError
        When it is no reference's table.
    FormatError
        When it is of a newer format version, or damaged.
    """
    text = table.metadata.get(METADATA)
    if text is None:
        raise InputError(f"{place} is not a reference: its table was not written by mst build-index.")
    try:
        values = dict(json.loads(text))
        version = int(values["format_version"])
        if version != FORMAT_VERSION:
            raise FormatError(
                f"Reference {place} has format version {version}, this program reads {FORMAT_VERSION}; update mclstexp."
            )
        missing = {"reference_id", "index", "identity"} - set(values)
        if missing or not {"model_digest", "embed_dim", "genes", "settings"} <= set(values["identity"]):
            raise KeyError(*missing)
    except MclstexpError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"Reference {place}: the table's metadata is damaged; run mst verify.") from error
    return values


def metadata_of(
    identity: ReferenceIdentity, genes: str, reference_id: str, index: str, published: dict[str, Any] | None = None
) -> dict[bytes, bytes]:
    """Return the schema metadata of a reference; ``genes`` is the digest of the panel's gene list.

    ``published`` says of a published copy what it was made from, and what was left out.
    """
    values: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "reference_id": reference_id,
        "index": index,
        "identity": {**identity.to_json(), "genes": genes},
        **({} if published is None else {"published": published}),
    }
    return {METADATA: canonical_json(values).encode()}
