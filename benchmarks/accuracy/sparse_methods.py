"""The ways to leave weights out that are compared: each structure, share, importance and repair.

Data only, as in ``methods``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.accuracy.methods import Method, Pass, recipe_text

SPARSITIES = (50, 60, 70, 80, 90)  # percent
# Outputs by inputs, from those that keep accuracy best to those that are fastest; N of M.
STRUCTURES = ("1x1", "2x1", "4x1", "8x1", "16x1", "16x4", "2:4", "4:8")
# These update the weights that stay, too: that is a part of the method, no repair.
SECOND_ORDER = ("admm", "obs", "sparsegpt")
IMPORTANCES = (*SECOND_ORDER, "wanda", "magnitude")
REPAIRED = ("yes", "no")
# Repair: the pruned layers as they are pruned, then all layers together, dense ones too.
REFIT: Pass = {"name": "refit-layers"}
# Models that the grid is for, unless others are named.
TASKS = ("fashion_resnet8", "minilm_l6_v2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of the grid.

    Attributes:
        structure: One of ``STRUCTURES``.
        sparsity: Percent of the weights that become zero.
        importance: One of ``IMPORTANCES``.
        repair: Whether zeros are shared out by the layers' sensitivity and what is left is
            refitted, in the layer and then in the whole net; if not, all layers lose alike, and
            only methods of second order change what is left.
    """

    structure: str
    sparsity: int
    importance: str
    repair: bool

    @property
    def name(self) -> str:
        """The method's name."""
        refit = "refitted" if self.repair else "not refitted"
        return f"{self.structure} {self.sparsity} % {self.importance}, {refit}"

    @property
    def allocation(self) -> str:
        """Which layers' zeros they are: N of M leaves no choice."""
        return "sensitivity" if self.repair and not of_many(self.structure) else "uniform"

    def method(self) -> Method:
        """Return what makes it."""
        prune: Pass = {
            "name": "prune-weights",
            "structure": self.structure,
            "sparsity": self.sparsity / 100,
            "importance": self.importance,
            "allocation": self.allocation,
            "repair": self.repair or self.importance in SECOND_ORDER,
        }
        return Method(name=self.name, text=recipe_text([prune, *([REFIT] if self.repair else [])]))


def cells(
    structures: Sequence[str],
    sparsities: Sequence[int],
    importances: Sequence[str],
    repaired: Sequence[str],
) -> Iterator[Cell]:
    """Yield the cells of a grid, those that say most first: a run may be stopped.

    Args:
        structures: Of ``STRUCTURES``; one that says its share by itself has a cell at that alone.
        sparsities: Percent.
        importances: Of ``IMPORTANCES``.
        repaired: Of ``REPAIRED``.
    """
    for repair in repaired:
        for importance in importances:
            for sparsity in sparsities:
                for structure in structures:
                    if sparsity in _shares(structure, sparsities):
                        yield Cell(
                            structure=structure,
                            sparsity=sparsity,
                            importance=importance,
                            repair=repair == "yes",
                        )


def _shares(structure: str, sparsities: Sequence[int]) -> Sequence[int]:
    """Return the shares of zeros that a structure can have, in percent."""
    if not of_many(structure):
        return sparsities
    kept, of = map(int, structure.split(":"))
    return (100 - 100 * kept // of,)


def of_many(structure: str) -> bool:
    """Return whether a structure is N of M, which says its share by itself."""
    return ":" in structure
