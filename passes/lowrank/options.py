"""How layers are factorized: what a recipe may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from tvmopt.errors import OptionError
from tvmopt.passes.lowrank.search import Method, RankBy, Rule


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorizeLayersOptions:
    """How layers are factorized, and to which rank.

    Attributes:
        method: ``"svd"``: the layer with fewer outputs, then a 1x1; ``"spatial"``: Kx1, then 1xK;
            ``"tucker"``: 1x1, KxK, 1x1; ``"auto"``: for each layer what is predicted to be fastest
            or, where ``rank_by`` is ``"speedup"``, what has the least error.
        rank_by: Which of the next four chooses the rank.
        error: Error that factors may add to a layer's outputs on the samples, as a share of their
            variance (without samples, of the squared weights), in (0, 1).
        energy: Share of the squared singular values, whitened or plain, that the factors keep, in
            (0, 1).
        speedup: How many times faster the factors are predicted to be at least, above 1.
        share: The rank as a share of the full one, in (0, 1).
        whiten: Whether the outputs on the samples are fitted; else the weights.
        sweeps: How often the factors of ``"spatial"`` and ``"tucker"`` are refined, at least 0.
        ridge: Pull towards the weights as they were, as a share of the inputs' mean square, in
            (0, 1].
        ends: Whether the first and the last layers are factorized too.
        rows: About how many rows of each layer's inputs are looked at, at least 1.
        most_inputs: Layers with more weights an output are left as they are, at least 1: the memory
            for one is about eight matrices of float64 of that size.
        seed: Of the choice of rows, at least 0.
        layers: Patterns of the names of layers that are factorized.
        skip: Layers that are not, by name, and why.

    Raises:
        OptionError: A value is outside its domain.
    """

    method: Method = "auto"
    rank_by: RankBy = "error"
    error: float = 0.02
    energy: float = 0.95
    speedup: float = 1.5
    share: float = 0.5
    whiten: bool = True
    sweeps: int = 4
    ridge: float = 0.01
    ends: bool = False
    rows: int = 8192
    most_inputs: int = 8192
    seed: int = 0
    layers: tuple[str, ...] = ("*",)
    skip: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (("method", get_args(Method)), ("rank_by", get_args(RankBy))):
            if getattr(self, name) not in known:
                raise OptionError(
                    f"{name} must be one of {', '.join(map(repr, known))}, "
                    f"got {getattr(self, name)!r}"
                )
        for name in ("error", "energy", "share"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise OptionError(f"{name} must be in (0, 1), got {getattr(self, name)!r}")
        if not 1.0 < self.speedup < float("inf"):
            raise OptionError(f"speedup must be above 1, got {self.speedup!r}")
        if not 0.0 < self.ridge <= 1.0:
            raise OptionError(f"ridge must be in (0, 1], got {self.ridge!r}")
        for name, least in (("sweeps", 0), ("rows", 1), ("most_inputs", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, got {getattr(self, name)!r}")

    @property
    def rule(self) -> Rule:
        """How the rank is chosen."""
        return Rule(by=self.rank_by, amount=float(getattr(self, self.rank_by)))
