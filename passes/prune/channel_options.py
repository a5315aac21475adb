"""What ``PruneChannels`` is told.

Source: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvmopt.errors import OptionError
from tvmopt.passes.prune.channel_budget import ALLOCATIONS, Allocation
from tvmopt.passes.prune.channel_loss import IMPORTANCES, Importance


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneChannelsOptions:
    """Which channels go.

    Attributes:
        ratio: Share of the channels, or of the net's predicted time where ``allocation`` is
            ``"time"``, in (0, 1).
        allocation: How the share is spread over the net: ``"time"``, ``"global"`` or ``"uniform"``;
            see ``channel_budget``.
        importance: Which channels go: ``"obs"``, ``"wanda"`` or ``"magnitude"``; see
            ``channel_loss``.
        most: The largest share of one group's channels that may go, in (0, 1).
        align: What the count of channels that are left is a multiple of, at least 1.
        heads: Whether heads of attention, and places within them, may go.
        repair: Whether what reads the channels is refitted by least squares.
        ridge: Pull towards the weights as they were, as a share of the inputs' mean square, in
            (0, 1].
        rows: About how many rows of each layer's inputs are looked at, at least 1.
        most_inputs: Channels that a layer with more weights an output reads stay, at least 1: the
            memory grows with the square.
        seed: Of the choice of rows, at least 0.
        layers: Patterns of the names of layers that may lose outputs.
        skip: Layers that stay as they are, by name, and why.

    Raises:
        OptionError: A value is outside its domain.
    """

    ratio: float = 0.2
    allocation: Allocation = "time"
    importance: Importance = "obs"
    most: float = 0.5
    align: int = 8
    heads: bool = True
    repair: bool = True
    ridge: float = 0.01
    rows: int = 8192
    most_inputs: int = 8192
    seed: int = 0
    layers: tuple[str, ...] = ("*",)
    skip: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ratio", "most"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise OptionError(f"{name} must be in (0, 1), got {getattr(self, name)!r}")
        for name, known in (("allocation", ALLOCATIONS), ("importance", IMPORTANCES)):
            if getattr(self, name) not in known:
                names = ", ".join(map(repr, known))
                raise OptionError(f"{name} must be one of {names}, got {getattr(self, name)!r}")
        if not 0.0 < self.ridge <= 1.0:
            raise OptionError(f"ridge must be in (0, 1], got {self.ridge!r}")
        for name, least in (("align", 1), ("rows", 1), ("most_inputs", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, got {getattr(self, name)!r}")
