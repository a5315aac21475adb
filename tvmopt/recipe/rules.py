"""Rules of a recipe for some layers, chosen by name or by role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from tvmopt.errors import OptionError
from tvmopt.layers import Layer, Role
from tvmopt.recipe.tables import nearest

Keep = Literal["faster", "smaller", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRule:
    """What differs for the layers that it chooses; of several rules the last one counts.

    Attributes:
        match: Patterns of names, such as ``"head_*"``; a layer is chosen if one of them fits, or if
            there are none. "*" stands for anything, "?" for one character, "[ab]" for one of these.
        role: Roles; a layer is chosen if it has one of them, or if there are none.
        passes: The passes that the rule is for, all if empty.
        skip: Whether the passes leave these layers alone.
        keep: When the compression of these layers stays; None is as the recipe says.
        weight_bits: Of the weights of these layers, from 2 to 8; None is as the passes say.

    Raises:
        OptionError: It chooses nothing in particular, says nothing of what it chooses, contradicts
            itself, or ``weight_bits`` is outside its range.
    """

    match: tuple[str, ...] = ()
    role: tuple[Role, ...] = ()
    passes: tuple[str, ...] = ()
    skip: bool = False
    keep: Keep | None = None
    weight_bits: int | None = None

    def __post_init__(self) -> None:
        if not self.match and not self.role:
            raise OptionError("must have 'match' or 'role', which choose layers, got neither")
        if not (self.skip or self.keep or self.weight_bits is not None):
            raise OptionError("must say what differs: 'skip', 'keep' or 'weight_bits', got none")
        if self.skip and self.weight_bits is not None:
            raise OptionError("must not both skip layers and set their 'weight_bits', got both")
        if self.weight_bits is not None and not 2 <= self.weight_bits <= 8:
            raise OptionError(f"weight_bits must be from 2 to 8, got {self.weight_bits!r}")

    def chooses(self, layer: Layer) -> bool:
        """Say whether ``layer`` is one of those meant."""
        named = any(fnmatchcase(layer.name, pattern) for pattern in self.match)
        return (named or not self.match) and (bool(layer.roles & {*self.role}) or not self.role)

    def is_for(self, pass_name: str) -> bool:
        """Say whether the rule holds in a pass."""
        return not self.passes or pass_name in self.passes

    def __str__(self) -> str:
        """Say how it chooses."""
        chosen = [
            f"{key} = {_listed(items)}"
            for key, items in (("match", self.match), ("role", self.role))
            if items
        ]
        return ", ".join(chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChoice:
    """What one pass does with one layer.

    Attributes:
        skip: Why it leaves the layer alone; empty if it does not.
        weight_bits: None is as the pass says.
    """

    skip: str = ""
    weight_bits: int | None = None


def choice_for(pass_name: str, layer: Layer, rules: Sequence[LayerRule]) -> LayerChoice:
    """Return what the rules of a recipe say of one layer in one pass."""
    choice = LayerChoice()
    for rule in rules:
        if rule.is_for(pass_name) and rule.chooses(layer):
            if rule.skip:
                choice = LayerChoice(skip=f"the recipe leaves it alone ({rule})")
            elif rule.weight_bits is not None:
                choice = LayerChoice(weight_bits=rule.weight_bits)
    return choice


def keep_for(layer: Layer, rules: Sequence[LayerRule], default: Keep) -> Keep:
    """Return when the compression of a layer stays."""
    said = [rule.keep for rule in rules if rule.keep and rule.chooses(layer)]
    return said[-1] if said else default


def check_matches(rules: Sequence[LayerRule], layers: Sequence[Layer], where: str) -> None:
    """Refuse patterns that fit no layer.

    Raises:
        OptionError: One fits none; the nearest name comes with it.
    """
    names = [layer.name for layer in layers]
    for rule in rules:
        for pattern in rule.match:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise OptionError(
                    f"{where}: 'match' must fit a layer, {pattern!r} fits none of {len(names)}; "
                    f"{nearest(pattern.strip('*?'), names, 0.35)}"
                )


def _listed(items: Sequence[str]) -> str:
    listed = ", ".join(f'"{item}"' for item in items)
    return listed if len(items) == 1 else f"[{listed}]"
