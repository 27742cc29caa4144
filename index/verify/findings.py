"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Finding:
    """One thing that is not as it should be.

    Attributes
    ----------
    kind
        What it is, for machines: "damaged", "missing", "orphan", "vector", ...
    path
        File or table, below the reference.
    message
        What is wrong, in one line.
    level
        ``note``: worth knowing, nothing is wrong.
    repaired
        Whether a repair mended it.
    used
        Whether the newest version reads the file.
    """

    kind: str
    path: str
    message: str
    level: Literal["error", "note"] = "error"
    repaired: bool = False
    used: bool = True


@dataclass
class Report:
    """Everything that a verification found, and what it looked at."""

    findings: list[Finding] = field(default_factory=list)
    version: int = 0
    n_files: int = 0
    n_spots: int = 0
    n_slides: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong that was not repaired."""
        return all(finding.level == "note" or finding.repaired for finding in self.findings)

    def add(self, kind: str, path: str, message: str, *, note: bool = False) -> Finding:
        """Record a finding."""
        finding = Finding(kind, path, message, "note" if note else "error")
        self.findings.append(finding)
        return finding

    def of(self, *kinds: str) -> list[Finding]:
        """Return the findings of some kinds."""
        return [finding for finding in self.findings if finding.kind in kinds]
