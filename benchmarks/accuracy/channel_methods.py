"""The ways to take whole channels out that are compared. Data only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.accuracy.methods import Method, Pass, recipe_text
from benchmarks.accuracy.sparse_methods import REFIT

SHARES = (10, 20, 30, 40, 50)  # percent of the net's predicted time that is to go
IMPORTANCES = ("obs", "wanda", "magnitude")


@dataclass(frozen=True, kw_only=True, slots=True)
class Channels:
    """One cell of the grid.

    Attributes:
        importance: One of ``IMPORTANCES``.
        repair: Whether what reads the channels, and then the whole net, is refitted.
        column: One of ``SHARES``.
    """

    importance: str
    repair: bool
    column: int

    @property
    def label(self) -> str:
        """What the cells of a line have in common."""
        return f"{self.importance}, {'refitted' if self.repair else 'not refitted'}"

    @property
    def name(self) -> str:
        """The method's name."""
        return f"channels, {self.column} % of time, {self.label}"

    def method(self) -> Method:
        """Return what makes it."""
        prune: Pass = {
            "name": "prune-channels",
            "ratio": self.column / 100,
            "importance": self.importance,
            "repair": self.repair,
            "most": 0.9,
        }
        return Method(name=self.name, text=recipe_text([prune, *([REFIT] if self.repair else [])]))


def cells(
    importances: Sequence[str], repaired: Sequence[str], shares: Sequence[int]
) -> Iterator[Channels]:
    """Yield the cells of a grid; those that say most first.

    Args:
        importances: Of ``IMPORTANCES``; others have no channels.
        repaired: "yes", "no".
        shares: Of ``SHARES``.
    """
    for repair in repaired:
        for importance in importances:
            for share in shares:
                if importance in IMPORTANCES:
                    yield Channels(importance=importance, repair=repair == "yes", column=share)
