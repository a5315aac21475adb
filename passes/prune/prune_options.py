"""The options of ``PruneWeights``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvmopt.errors import OptionError
from tvmopt.passes.prune.blocks import IMPORTANCES, Importance
from tvmopt.passes.prune.structures import SPELLINGS, Structure

_SPARSITY = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneWeightsOptions:
    """Which weights become zero.

    Attributes:
        sparsity: Share of each layer's blocks that becomes zero, in (0, 1). N:M structures say it
            themselves: 0.5, or what they say.
        structure: Outputs by inputs of a block, such as ``"16x4"`` or ``"8x1"``; ``"unstructured"``
            for single weights; N:M such as ``"2:4"``: of every 4 neighbouring inputs of an output
            2 are not zero.
        importance: What is kept; ``blocks`` says what each name stands for.
        repair: Whether the weights that are left are refitted by least squares.
        reorder: Whether channels change places, where that is free, so that those of like weights
            share blocks.
        rounds: Steps in which ``"obs"`` reaches the sparsity, and tens of steps in which
            ``"admm"`` does, at least 1.
        ridge: Pull towards the weights as they were, as a share of the inputs' mean square, in
            (0, 1].
        ends: Whether the first and the last layers are pruned too.
        rows: About how many rows of each layer's inputs are looked at, at least 1.
        seed: Of the choice of rows, at least 0.
        layers: Patterns of the names of layers that are pruned.
        skip: Layers that are not, by name, and why.

    Raises:
        OptionError: A value is outside its domain.
    """

    sparsity: float = _SPARSITY
    structure: str = "16x4"
    importance: Importance = "admm"
    repair: bool = True
    reorder: bool = True
    rounds: int = 8
    ridge: float = 0.01
    ends: bool = False
    rows: int = 8192
    seed: int = 0
    layers: tuple[str, ...] = ("*",)
    skip: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 < self.sparsity < 1.0:
            raise OptionError(f"sparsity must be in (0, 1), got {self.sparsity!r}")
        shape = Structure.parse(self.structure)
        if shape is None:
            raise OptionError(f"structure must be {SPELLINGS}, got {self.structure!r}")
        if shape.fixed_sparsity not in (None, self.sparsity) and self.sparsity != _SPARSITY:
            raise OptionError(
                f"sparsity must be {shape.fixed_sparsity:g} where structure is "
                f"{self.structure!r}, got {self.sparsity!r}; leave it out"
            )
        if self.importance not in IMPORTANCES:
            known = ", ".join(map(repr, IMPORTANCES))
            raise OptionError(f"importance must be one of {known}, got {self.importance!r}")
        if not 0.0 < self.ridge <= 1.0:
            raise OptionError(f"ridge must be in (0, 1], got {self.ridge!r}")
        for name, least in (("rounds", 1), ("rows", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, got {getattr(self, name)!r}")
