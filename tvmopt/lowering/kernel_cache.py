"""Each distinct kernel is generated once for a model."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from tvmopt.kernels.vector import isa
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class LowerOptions:
    """What a user may switch.

    Attributes:
        winograd: Whether 3x3 convolutions may use Winograd's form.
    """

    winograd: bool = True


class KernelCache:
    """The kernels of one model, by generator, site and configuration."""

    def __init__(self, target: CpuTarget, options: LowerOptions) -> None:
        self.target, self.options = target, options
        self._made: dict[Hashable, tirx.PrimFunc] = {}

    def get(
        self,
        generator: Callable[..., tirx.PrimFunc],
        kind: str,
        site: Any,
        how: Any,
        cycles: float,
    ) -> tirx.PrimFunc:
        """Return ``generator(site, how, name)``, made at most once.

        Args:
            generator: A kernel generator.
            kind: The operator's part of the kernel's name, such as ``"conv"``.
            site: What to compute; hashable.
            how: How to compute it; hashable.
            cycles: Predicted cycles of one core; the attribute "tvmopt.cycles" keeps them.
        """
        key = (kind, site, how)
        if key not in self._made:
            name = f"f32_{kind}{_steps(site)}{_tile(how)}__{isa(self.target)}"
            kernel = generator(site, how, name)
            self._made[key] = kernel.with_attr("tvmopt.cycles", round(cycles))
        return self._made[key]


def _steps(site: Any) -> str:
    epilogue = getattr(site, "epilogue", None)
    return "" if epilogue is None else epilogue.name


def _tile(how: Any) -> str:
    edge = f"_f{how.m}" if hasattr(how, "m") else ""
    tile = getattr(how, "tile", None)
    if tile is not None:
        return f"{edge}_{tile.rows}x{tile.columns}"
    return f"_{how.pixels}x{how.vectors * how.lanes}" if hasattr(how, "pixels") else ""
