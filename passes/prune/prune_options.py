"""The options of ``PruneWeights``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from tvmopt.errors import OptionError
from tvmopt.passes.prune.blocks import IMPORTANCES, Importance
from tvmopt.passes.prune.structures import SPELLINGS, Structure

Allocation = Literal["uniform", "global", "sensitivity", "time"]
AUTO = "auto"
_SPARSITY = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneWeightsOptions:
    """Which weights become zero.

    Attributes:
        sparsity: Share of blocks that becomes zero, in (0, 1); ``allocation`` says where. N:M
            structures say it themselves: 0.5, or what they say.
        allocation: ``"uniform"``: of each layer's blocks; ``"global"`` and ``"sensitivity"``: of
            all weights of the layers that are pruned; ``"time"``: the share of each layer's blocks
            whose loss costs what may be spent where it saves most time. See ``layer_goals``.
        structure: Outputs by inputs of a block, such as ``"16x4"`` or ``"8x1"``; ``"unstructured"``
            for single weights; N:M such as ``"2:4"``: of every 4 neighbouring inputs of an output
            2 are not zero; ``"auto"``: layer by layer what kernels of the target make most of.
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
    allocation: Allocation = "uniform"
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
        if self.structure != AUTO:
            self._check_structure()
        if self.allocation not in get_args(Allocation):
            known = ", ".join(map(repr, get_args(Allocation)))
            raise OptionError(f"allocation must be one of {known}, got {self.allocation!r}")
        if self.importance not in IMPORTANCES:
            known = ", ".join(map(repr, IMPORTANCES))
            raise OptionError(f"importance must be one of {known}, got {self.importance!r}")
        if not 0.0 < self.ridge <= 1.0:
            raise OptionError(f"ridge must be in (0, 1], got {self.ridge!r}")
        for name, least in (("rounds", 1), ("rows", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, got {getattr(self, name)!r}")

    def _check_structure(self) -> None:
        shape = Structure.parse(self.structure)
        if shape is None:
            spellings = f"'auto', {SPELLINGS}"
            raise OptionError(f"structure must be {spellings}, got {self.structure!r}")
        fixed = shape.fixed_sparsity
        if fixed is None:
            return
        if fixed != self.sparsity and self.sparsity != _SPARSITY:
            raise OptionError(
                f"sparsity must be {fixed:g} where structure is "
                f"{self.structure!r}, got {self.sparsity!r}; leave it out"
            )
        if self.allocation != "uniform":
            raise OptionError(
                f"allocation must be 'uniform' where structure is {self.structure!r}, which says "
                f"how many weights go, got {self.allocation!r}"
            )
