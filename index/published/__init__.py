"""References for others: a read-only copy of one version, and how such a copy is had from afar."""
