"""What is pruned together, and how it is spelled."""

from __future__ import annotations

import re
from dataclasses import dataclass

SPELLINGS = "'unstructured', outputs by inputs such as '16x4', or N:M such as '2:4'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """What is pruned together.

    Attributes:
        outputs: Neighbouring outputs of a block, at least 1.
        inputs: Neighbouring inputs of a run of taps of a block, at least 1.
        most: Of ``of`` neighbouring inputs so many are not zero in each output, where that is asked
            for; in [1, of). Blocks are then of one weight.
        of: See ``most``; None where blocks may lie anywhere.
    """

    outputs: int
    inputs: int
    most: int | None = None
    of: int | None = None

    @classmethod
    def parse(cls, text: str) -> Structure | None:
        """Return the structure of a name; None if it names none.

        Args:
            text: ``"unstructured"``, outputs by inputs such as ``"16x4"``, or N:M such as
                ``"2:4"``: of every 4 neighbouring inputs of an output 2 are not zero.
        """
        if text == "unstructured":
            return cls(outputs=1, inputs=1)
        parts = re.fullmatch(r"([0-9]{1,6})([x:])([0-9]{1,6})", text)
        if parts is None:
            return None
        first, second = int(parts[1]), int(parts[3])
        if parts[2] == "x":
            return cls(outputs=first, inputs=second) if first > 0 and second > 0 else None
        return cls(outputs=1, inputs=1, most=first, of=second) if 0 < first < second else None

    @property
    def fixed_sparsity(self) -> float | None:
        """The share of zeros that the structure says itself; None where it says none."""
        return None if self.most is None or self.of is None else 1.0 - self.most / self.of


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What is asked of a layer.

    Attributes:
        structure: A name that ``Structure.parse`` knows.
        sparsity: Share of its blocks that becomes zero, in (0, 1).
    """

    structure: str
    sparsity: float

    @property
    def shape(self) -> Structure:
        """What is pruned together."""
        shape = Structure.parse(self.structure)
        assert shape is not None, "structures are looked at when options are made"
        return shape
