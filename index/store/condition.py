"""A condition on spots in SQL: one filter, and nothing beside it."""

from __future__ import annotations

import re

from mclstexp.errors import InputError

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`""")
_CHANGES = re.compile(r"\b(random|rand|uuid|now|current_(?:date|time|timestamp)|today)\b", re.IGNORECASE)
"""Functions whose answer is another one each time."""


def one_condition(text: str) -> str:
    """Return a condition in parentheses, in which Lance can read nothing but one expression.

    Lance puts a condition after ``SELECT 1 FROM t WHERE`` and drops what follows its end: a semicolon and all after
    it, LIMIT, ORDER BY, GROUP BY. In parentheses these cannot be read; subqueries it refuses itself.

    Raises
    ------
    InputError
        When the text is empty, holds more than one condition or a comment, or its quotes or parentheses do not close.

    Examples
    --------
    >>> one_condition("total_counts > 500 AND patient = 'B; C'")
    "(total_counts > 500 AND patient = 'B; C')"
    """
    bare = _QUOTED.sub("''", text)
    problem = _problem(bare)
    if problem:
        raise InputError(f"The condition {text!r} cannot be used: {problem}.")
    return f"({text})"


def _problem(bare: str) -> str:
    """Return what is wrong with a condition whose quoted parts are left out."""
    if not bare.strip():
        return "it is empty; leave it out, or give one such as total_counts > 500"
    if ";" in bare:
        return "it holds a semicolon; one condition is needed, joined by AND"
    if "--" in bare or "/*" in bare or "\x00" in bare:
        return "it holds a comment; one condition is needed, and nothing beside it"
    if any(quote in bare.replace("''", "") for quote in "'\"`"):
        return "a quote is not closed; correct it, or leave the condition out"
    level = 0
    for letter in bare:
        level += (letter == "(") - (letter == ")")
        if level < 0:
            break
    if level:
        return "its parentheses do not match; correct them, or leave it out"
    changing = _CHANGES.search(bare)
    if changing:
        return f"{changing[0]} answers anew each time; compare columns with values"
    return ""
