"""Read recipes as TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvmopt.errors import OptionError
from tvmopt.recipe.kinds import PassKind, kind_named
from tvmopt.recipe.rules import LayerRule
from tvmopt.recipe.tables import make, nearest


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        OptionError: It cannot be read, or is no TOML; the line comes with it.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise OptionError(f"{path}: must be a readable recipe: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise OptionError(f"{path}: must be a recipe in TOML, which is UTF-8: {err}") from err
    except tomllib.TOMLDecodeError as err:
        raise OptionError(f"{path}: must be a recipe in TOML: {err}") from err


def read_passes(entries: Any, where: str) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Return the options of each ``[[pass]]``, in order, and those whose bits are "auto".

    Raises:
        OptionError: A pass or a key is unknown, or a value impossible.
    """
    passes, auto = [], []
    for i, entry in enumerate(_tables(entries, "pass", where), start=1):
        place = f"{where}: [[pass]] {i}"
        name = entry.get("name")
        if not isinstance(name, str):
            raise OptionError(f"{place} must have the key 'name', which says which pass, got none")
        kind = kind_named(name, place)
        table = {key: value for key, value in entry.items() if key != "name"}
        if kind.bits is not None and table.get(kind.bits) == "auto":
            auto.append(name)
            table[kind.bits] = 8
        passes.append(make(kind.options, table, f"{place} ({name})", hidden=kind.hidden))
    return tuple(passes), tuple(auto)


def read_rules(entries: Any, kinds: Sequence[PassKind], where: str) -> tuple[LayerRule, ...]:
    """Return the rule of each ``[[layer]]``, in order.

    Args:
        entries: What the file has under "layer".
        kinds: The recipe's passes, of which rules may speak.
        where: The file, for messages.

    Raises:
        OptionError: A key is unknown, or a value impossible.
    """
    rules = []
    for i, entry in enumerate(_tables(entries, "layer", where), start=1):
        place = f"{where}: [[layer]] {i}"
        rule = make(LayerRule, entry, place)
        check_rule(rule, kinds, place)
        rules.append(rule)
    return tuple(rules)


def check_rule(rule: LayerRule, kinds: Sequence[PassKind], where: str) -> None:
    """Refuse a rule that speaks of what the passes of its recipe do not have.

    Raises:
        OptionError: It names another pass, or sets bits where no pass has bits for each layer.
    """
    known = [kind.name for kind in kinds]
    for name in rule.passes:
        if name not in known:
            raise OptionError(
                f"{where}: 'passes' must be passes of this recipe, got {name!r}; "
                f"{nearest(name, known)}"
            )
    meant = [kind for kind in kinds if rule.is_for(kind.name)]
    if rule.weight_bits is not None and not any(kind.bits for kind in meant):
        named = ", ".join(repr(kind.name) for kind in meant)
        raise OptionError(f"{where}: 'weight_bits' must be for a pass that has bits, got {named}")


def _tables(entries: Any, name: str, where: str) -> list[Mapping[str, Any]]:
    fits = isinstance(entries, list) and all(isinstance(entry, Mapping) for entry in entries)
    if not fits:
        raise OptionError(f"{where}: {name!r} must be tables [[{name}]], got {entries!r}")
    return entries
