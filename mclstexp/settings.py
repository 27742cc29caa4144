"""Settings as plain values and back: dotted assignments, unknown keys and wrong types refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mclstexp.errors import InputError

T = TypeVar("T")

LONGEST_SHOWN = 80


def _shown(value: object) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def require(name: str, value: object, fits: bool, needed: str) -> None:
    """Refuse a setting that is out of its range.

    Raises
    ------
    InputError
        Naming the setting, its value and what is needed, when ``fits`` is not true.
    """
    if not fits:
        raise InputError(f"Setting {name} is {_shown(value)}; {needed} is needed.")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


LATER = {"later": True}
"""Metadata of a setting that was added after models were saved: its default is what the program did before."""


def identity_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as `to_dict` does, without settings that came `LATER` and are at their default.

    So a model of before has the digest that it had, and fits the references that were built with it.
    """
    values = to_dict(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = identity_dict(value)
        elif field.metadata.get("later") and value == field.default:
            del values[field.name]
    return values


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build a (nested) settings dataclass from plain values.

    Raises
    ------
    InputError
        For an unknown key or a value of the wrong type, named by its dotted path.
    """
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(f"Unknown setting {where}{unknown[0]!r}; known: {', '.join(sorted(hints))}.")
    return cls(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()})


def with_settings(config: T, assignments: list[str]) -> T:
    """Return the settings with ``dotted.key=value`` assignments applied; values are read as JSON, else as text."""
    values = to_dict(config)
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"Setting {assignment!r} is not of the form key=value.")
        *parents, leaf = dotted.split(".")
        target = values
        for parent in parents:
            inner = target.get(parent)
            if not isinstance(inner, dict):
                raise InputError(f"Unknown setting {dotted!r}; known: {', '.join(sorted(target))}.")
            target = inner
        if leaf not in target:
            raise InputError(f"Unknown setting {dotted!r}; known: {', '.join(sorted(target))}.")
        try:
            target[leaf] = json.loads(text)
        except (ValueError, RecursionError):  # no JSON, a number of too many digits, brackets without end
            target[leaf] = text
    return from_dict(type(config), values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise InputError(f"Setting {where} must be a group of settings, got {_shown(value)}.")
        return from_dict(hint, value, f"{where}.")
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in options:
            raise InputError(f"Setting {where} is {_shown(value)}; one of {', '.join(map(repr, options))} is needed.")
        return value
    if origin in (Union, UnionType):
        if value is None and type(None) in options:
            return None
        (inner,) = (option for option in options if option is not type(None))
        return _convert(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"Setting {where} must be a list, got {_shown(value)}.")
        return tuple(_convert(options[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf  # which no range holds
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"Setting {where} must be {hint.__name__}, got {_shown(value)}.")
    return value
