"""What a model and a reference must agree on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mclstexp.errors import MismatchError
from mclstexp.panel import GenePanel
from mclstexp.storage import canonical_json


@dataclass(frozen=True, eq=False)
class ReferenceIdentity:
    """What a model and a reference must agree on.

    Attributes
    ----------
    model_digest
        Hash of the model's weights and configuration.
    embed_dim
        Length of an embedding.
    panel
        The model's gene panel.
    settings
        Plain JSON values: patch spec, spot context rule, normalisation, key mix and whatever else makes embeddings.
    """

    model_digest: str
    embed_dim: int
    panel: GenePanel
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; of the panel the digest."""
        return {
            "model_digest": self.model_digest,
            "embed_dim": self.embed_dim,
            "panel": self.panel.digest,
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], panel: GenePanel) -> ReferenceIdentity:
        """Rebuild from plain JSON values and the panel that they name."""
        return cls(values["model_digest"], int(values["embed_dim"]), panel, dict(values["settings"]))

    def differences(self, other: ReferenceIdentity) -> list[tuple[str, str, str]]:
        """Name, own value and other value of all that differs; the model comes last, as it hides the others."""
        differences = []
        if self.embed_dim != other.embed_dim:
            differences.append(("embedding length", str(self.embed_dim), str(other.embed_dim)))
        if self.panel != other.panel:
            differences.append(("gene panel", _panel_name(self.panel), _panel_name(other.panel)))
        ours, theirs = (json.loads(canonical_json(side.settings)) for side in (self, other))
        for key in sorted({*ours, *theirs}):
            if ours.get(key) != theirs.get(key):
                values = (canonical_json(side.get(key)) for side in (ours, theirs))
                differences.append((key.replace("_", " "), *values))
        if self.model_digest != other.model_digest:
            differences.append(("model", self.model_digest[:12], other.model_digest[:12]))
        return differences

    def check(self, other: ReferenceIdentity, root: Path | str) -> None:
        """Refuse another model, panel, patch spec or spot context than the reference's.

        Raises
        ------
        MismatchError
            With the name of what differs, both values, and what helps.
        """
        differences = self.differences(other)
        if not differences:
            return
        name, ours, theirs = differences[0]
        others = ", ".join(item[0] for item in differences[1:])
        more = f" ({len(differences) - 1} more differ: {others})" if others else ""
        raise MismatchError(
            f"Reference {root} was built with {name} {ours}, but this model has {theirs}{more}; "
            "use the reference's model, or build a reference of this one with mst build-index."
        )


def _panel_name(panel: GenePanel) -> str:
    return f"{panel.digest[:12]} ({len(panel)} genes)"
