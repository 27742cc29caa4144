"""Errors that a user can cause. Each message is one line: what is wrong, the values, and what helps."""


class MclstexpError(Exception):
    """Base of every error that the command prints as one line and exits with 1."""


class InputError(MclstexpError):
    """A file or folder given by the user is missing, unreadable, contradictory or ambiguous."""


class WeightsError(InputError):
    """The pretrained weights of an encoder cannot be had: no internet, no such model, no access."""


class DownloadError(MclstexpError):
    """A file cannot be had from where it is published: no network, not there, no access, or not what was published."""


class UnreachableError(DownloadError):
    """Where a file is published does not answer: no network, no such host, or a server that fails."""


class FormatError(MclstexpError):
    """A model or reference folder is damaged, incomplete, or of another format version."""


class MismatchError(MclstexpError):
    """Two things that must agree do not: model and reference, panel and counts, patch spec and slide."""


class ExistsAlreadyError(MclstexpError):
    """An output or a slide exists already, and replacing it was not asked for."""


class LockedError(MclstexpError):
    """Another process is writing to the reference."""


class StorageError(MclstexpError):
    """The operating system refused a write: no space, no permission, a file that vanished."""


class MclstexpWarning(UserWarning):
    """Something was assumed, left out or is doubtful; nothing is wrong with the input as such."""
