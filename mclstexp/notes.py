"""What the program assumed or doubts, said through Python's warnings; what it is doing, through logging."""

from __future__ import annotations

import logging
import warnings

from mclstexp.errors import MclstexpWarning

_LOG = logging.getLogger("mclstexp")
_LOG.addHandler(logging.NullHandler())


def warn(text: str) -> None:
    """Say what was assumed, or what to beware of. The command prints it; a notebook shows it as a warning."""
    warnings.warn(text, MclstexpWarning, stacklevel=3)


def inform(text: str) -> None:
    """Say what is being done. The command prints it; elsewhere the logger ``mclstexp`` decides."""
    _LOG.info(text)
