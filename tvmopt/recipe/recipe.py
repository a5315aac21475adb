"""What to do with a model: passes in order, and rules for some of its layers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tvmopt.calibration import LEAST_SAMPLES
from tvmopt.errors import OptionError
from tvmopt.recipe.kinds import STAGES, PassKind, kind_of
from tvmopt.recipe.read import check_rule, read_passes, read_rules, read_toml
from tvmopt.recipe.rules import Keep, LayerRule
from tvmopt.recipe.tables import build, nearest, values_of

_KEYS = ("description", "keep", "min_samples", "pass", "layer")
_BUILTIN = resources.files("tvmopt.recipe") / "builtin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to compress a model.

    Attributes:
        passes: The options of each pass, whose classes say which passes; they run in this order.
        layers: Rules for some layers; of several the last one counts.
        auto_bits: Passes whose weights of 8 bits get 7 where the target computes faster with them.
        keep: A layer's compression stays if it is predicted to be "faster", if it is faster or its
            weights get "smaller", or in "all" cases.
        min_samples: The fewest calibration samples that will do, at least 1.
        name: What messages, reports and manifests call it.
        description: One line for people.

    Raises:
        OptionError: There is no pass, their order makes no sense, or ``min_samples`` is below 1.
    """

    passes: tuple[Any, ...]
    layers: tuple[LayerRule, ...] = ()
    auto_bits: tuple[str, ...] = ()
    keep: Keep = "faster"
    min_samples: int = LEAST_SAMPLES
    name: str = "custom"
    description: str = ""

    def __post_init__(self) -> None:
        if not self.passes:
            raise OptionError("a recipe must have at least one pass, got none")
        if self.min_samples < 1:
            raise OptionError(f"min_samples must be at least 1, got {self.min_samples!r}")
        _check_order(self.kinds)
        for name in self.auto_bits:
            if name not in [kind.name for kind in self.kinds if kind.bits]:
                raise OptionError(f"auto_bits must name passes that have bits, got {name!r}")
        for rule in self.layers:
            check_rule(rule, self.kinds, f"rule {rule}")

    @property
    def kinds(self) -> tuple[PassKind, ...]:
        """What each pass is."""
        return tuple(kind_of(options) for options in self.passes)

    @property
    def learns_from(self) -> tuple[str, ...]:
        """The names of the passes that need calibration samples."""
        return tuple(kind.name for kind in self.kinds if kind.needs_samples)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the recipes that come with tvmopt."""
        return tuple(
            sorted(Path(entry.name).stem for entry in _BUILTIN.iterdir() if _is_recipe(entry.name))
        )

    @classmethod
    def named(cls, name: str) -> Recipe:
        """Return a recipe that comes with tvmopt, such as ``"int8"``.

        Raises:
            OptionError: There is none of that name; the nearest one comes with it.
        """
        if name not in cls.names():
            raise OptionError(
                f"a recipe must be a .toml file or one of {', '.join(map(repr, cls.names()))}, "
                f"got {name!r}; {nearest(name, cls.names())}"
            )
        with resources.as_file(_BUILTIN / f"{name}.toml") as path:
            return cls._read(path, name)

    @classmethod
    def load(cls, source: str | Path) -> Recipe:
        """Read a TOML file, or return a recipe that comes with tvmopt.

        Args:
            source: A path, which ends in ".toml" or has a folder; or a name.

        Raises:
            OptionError: The file cannot be read, a key is unknown, or a value impossible; or there
                is no recipe of that name.
        """
        path = Path(source)
        if isinstance(source, str) and path.suffix != ".toml" and path.name == source:
            return cls.named(source)
        return cls._read(path, str(path))

    @classmethod
    def _read(cls, path: Path, where: str) -> Recipe:
        table = read_toml(path)
        for key in table:
            if key not in _KEYS:
                raise OptionError(f"{where}: unknown key {key!r}; {nearest(key, _KEYS)}")
        plain = {key: value for key, value in table.items() if key not in {"pass", "layer"}}
        values = values_of(cls, plain, where)
        values["passes"], values["auto_bits"] = read_passes(table.get("pass", []), where)
        kinds = [kind_of(options) for options in values["passes"]]
        values["layers"] = read_rules(table.get("layer", []), kinds, where)
        return build(cls, values | {"name": path.stem}, where)

    def for_bits(self, bits: int) -> Recipe:
        """Return the recipe whose "auto" bits of weights are so many."""
        passes = tuple(
            dataclasses.replace(options, **{str(kind.bits): bits})
            if kind.name in self.auto_bits
            else options
            for kind, options in zip(self.kinds, self.passes, strict=True)
        )
        return dataclasses.replace(self, passes=passes, auto_bits=())

    def describe(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it, defaults written out."""
        described = {
            "name": self.name,
            "description": self.description,
            "auto_bits": list(self.auto_bits),
            "keep": self.keep,
            "min_samples": self.min_samples,
            "passes": [
                {"name": kind.name, **_shown(options, kind)}
                for kind, options in zip(self.kinds, self.passes, strict=True)
            ],
            "layers": [dataclasses.asdict(rule) for rule in self.layers],
        }
        return json.loads(json.dumps(described))  # lists, as it is read back

    def sha256(self) -> str:
        """Return the digest of what it does, in hexadecimal; its name is no part of that."""
        described = self.describe()
        del described["name"], described["description"]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _shown(options: Any, kind: PassKind) -> dict[str, Any]:
    every = dataclasses.asdict(options)
    return {key: value for key, value in every.items() if key not in kind.hidden}


def _is_recipe(name: str) -> bool:
    return name.endswith(".toml")


def _check_order(kinds: Sequence[PassKind]) -> None:
    for i, kind in enumerate(kinds):
        later = [k for k in kinds[i + 1 :] if STAGES.index(k.stage) < STAGES.index(kind.stage)]
        if later:
            raise OptionError(
                f"pass {later[0].name!r} must come before {kind.name!r}, got it after; the order "
                "is: passes that change shapes, that prune, that scale floats, that quantize, that "
                "repair"
            )
        if kind.stage == "repair" and not any(k.stage == "quantize" for k in kinds):
            raise OptionError(f"pass {kind.name!r} must come after one that quantizes, got none")
