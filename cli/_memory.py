"""A machine without enough memory, told in one line."""

import re

_SIGNS = (
    "failed to map segment",
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "bad_alloc",
    "out of memory",
)
"""What torch's allocators, FAISS and the system say; Python and NumPy raise MemoryError."""

_WANTED = re.compile(r"(?:allocate|allocating|tried to allocate)\s+([\d.]+\s*(?:[KMGT]i?B|bytes))", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory could not be had."""
    return isinstance(error, MemoryError) or any(sign.lower() in str(error).lower() for sign in _SIGNS)


def out_of_memory(error: BaseException, doing: str) -> str:
    """Return one line: how much more was asked for, while what was done, and which options lower it."""
    asked = _WANTED.search(str(error))
    more = f"{_readable(asked[1])} more could not be had" if asked else "more could not be had"
    while_doing = f" while at: {doing}" if doing else ""
    return (
        f"memory ran out: {more}{while_doing}. Give the command more (ulimit -v, the container's limit), or ask for "
        "less: fewer slides a run (--slides), a named panel (--genes, --n-genes), a smaller -k, or "
        "--set encoder.views=1."
    )


def _readable(amount: str) -> str:
    number, unit = re.split(r"\s*(?=[A-Za-z])", amount, maxsplit=1)
    return amount if unit != "bytes" else f"{float(number) / 2**20:,.0f} MiB"
