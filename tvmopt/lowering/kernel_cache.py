"""Each distinct kernel is generated once for a model."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from tvm import tirx

from tvmopt.kernels.depthwise_tile import DepthwiseConfig
from tvmopt.kernels.vector import isa
from tvmopt.kernels.winograd_stages import WinogradConfig
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class LowerOptions:
    """What a user may switch.

    Attributes:
        winograd: Whether 3x3 convolutions may use Winograd's form.
        smaller: Whether the artefact is to be small rather than fast.
    """

    winograd: bool = True
    smaller: bool = False


Site = TypeVar("Site", bound=Hashable)
How = TypeVar("How", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Order:
    """What a kernel was asked for with, as ``KernelCache.get`` takes it."""

    generator: Callable[..., tirx.PrimFunc]
    kind: str
    site: Any
    how: Hashable
    cycles: float
    types: str


class KernelCache:
    """The kernels of one model, by generator, site and configuration."""

    def __init__(self, target: CpuTarget, options: LowerOptions) -> None:
        self.target, self.options = target, options
        self._made: dict[Hashable, tirx.PrimFunc] = {}
        self._orders: dict[tirx.PrimFunc, Order] = {}

    def get(
        self,
        generator: Callable[[Site, How, str], tirx.PrimFunc],
        kind: str,
        site: Site,
        how: How,
        cycles: float,
        types: str = "f32",
    ) -> tirx.PrimFunc:
        """Return ``generator(site, how, name)``, made at most once.

        Args:
            generator: A kernel generator.
            kind: The operator's part of the kernel's name, such as ``"conv"``.
            site: What to compute.
            how: How to compute it.
            cycles: Predicted cycles of one core; the attribute "tvmopt.cycles" keeps them.
            types: What the kernel computes with, as its name begins, such as ``"qu8"``.
        """
        key = (kind, site, how)
        if key not in self._made:
            name = f"{_types(types, site)}_{kind}{_steps(site)}{_tile(how)}__{isa(self.target)}"
            kernel = generator(site, how, name)
            made = self._made[key] = kernel.with_attr("tvmopt.cycles", round(cycles))
            self._orders[made] = Order(generator, kind, site, how, cycles, types)
        return self._made[key]

    def order(self, kernel: tirx.PrimFunc) -> Order | None:
        """Return what a kernel was asked for with; None for one that is not of here."""
        return self._orders.get(kernel)


def _types(read: str, site: object) -> str:
    """Return the types of a kernel's name: what it reads, and what it stores if that is another."""
    epilogue = getattr(site, "epilogue", None)
    if epilogue is None:
        return read
    stored = {"uint8": "qu8", "int8": "qs8", "int16": "qs16"}.get(epilogue.dtype, "f32")
    return read if stored == read[-len(stored) :] else f"{read}_{stored}"


def _steps(site: object) -> str:
    epilogue = getattr(site, "epilogue", None)
    return "" if epilogue is None else epilogue.name


def _tile(how: object) -> str:
    if isinstance(how, DepthwiseConfig):
        return f"_{how.pixels}x{how.vectors * how.lanes}"
    edge = f"_f{how.m}" if isinstance(how, WinogradConfig) else ""
    tile = getattr(how, "tile", None)
    return "" if tile is None else f"{edge}_{tile.rows}x{tile.columns}"
