"""Make frozen options of TOML tables, and refuse what they cannot be by one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, TypeVar

from tvmopt.errors import OptionError

Options = TypeVar("Options")

_SHOWN = 12  # names in a message
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def nearest(name: str, known: Iterable[str], likeness: float = 0.5) -> str:
    """Return how a message ends that refuses ``name``: the nearest known one, or what there is.

    Args:
        name: What was given.
        known: What could have been.
        likeness: The least for the nearest one, in [0, 1].
    """
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=likeness)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join([*map(repr, names[:_SHOWN]), *(["..."] if len(names) > _SHOWN else [])])
    return f"known are {shown}" if names else "none is known"


def make(
    cls: type[Options], table: Mapping[str, Any], where: str, *, hidden: Collection[str] = ()
) -> Options:
    """Return ``cls(**table)``, checked.

    Args:
        cls: A frozen dataclass whose fields are numbers, texts, literals, tuples of these, or None.
        table: A TOML table.
        where: File and table, for messages.
        hidden: Fields that are no keys.

    Raises:
        OptionError: A key is unknown, or missing, or its value is of another kind or outside what
            ``cls`` takes.
    """
    return build(cls, values_of(cls, table, where, hidden=hidden), where)


def values_of(
    cls: type[Any], table: Mapping[str, Any], where: str, *, hidden: Collection[str] = ()
) -> dict[str, Any]:
    """Return the values of a table as the fields of ``cls`` want them; some may be missing.

    Raises:
        OptionError: A key is unknown, or its value is of another kind.
    """
    hints = typing.get_type_hints(cls)
    fields = [field.name for field in dataclasses.fields(cls) if field.name not in hidden]
    for key in table:
        if key not in fields:
            raise OptionError(f"{where}: unknown key {key!r}; {nearest(key, fields)}")
    return {key: convert(hints[key], value, f"{where}: {key!r}") for key, value in table.items()}


def build(cls: type[Options], values: Mapping[str, Any], where: str) -> Options:
    """Return ``cls(**values)``, what it refuses told with its place.

    Raises:
        OptionError: A field that needs a value has none, or ``cls`` refuses one.
    """
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            raise OptionError(f"{where}: must have a key {field.name!r}")
    try:
        return cls(**values)
    except OptionError as err:
        raise OptionError(f"{where}: {err}") from err


def convert(hint: Any, value: Any, where: str) -> Any:
    """Return a TOML value as ``hint`` wants it.

    Raises:
        OptionError: It is of another kind.
    """
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return _convert_union(choices, value, where)
    if origin is Literal:
        if type(value) in {type(choice) for choice in choices} and value in choices:
            return value
        close = nearest(value, choices) if isinstance(value, str) else ""
        close = f"; {close}" if close.startswith("did") else ""
        raise OptionError(f"{where} must be {_wanted(hint)}, got {_spelled(value)}{close}")
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(convert(choices[0], item, where) for item in items)
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise OptionError(f"{where} must be {_wanted(hint)}, got {_spelled(value)}")
    return value


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """TOML has no null: what may be None is told so by the text "none"."""
    if value == "none" and type(None) in choices:
        return None
    kinds = [choice for choice in choices if choice is not type(None)]
    if len(kinds) == 1:
        return convert(kinds[0], value, where)
    for kind in kinds:
        with contextlib.suppress(OptionError):
            return convert(kind, value, where)
    wanted = " or ".join(map(_wanted, kinds))
    raise OptionError(f"{where} must be {wanted}, got {_spelled(value)}")


def _wanted(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    return _WORDS[hint]


def _spelled(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    return str(value).lower() if isinstance(value, bool) else repr(value)
