"""Mirror of passes/prune/structures.py."""

from __future__ import annotations

import pytest

from tvmopt.passes.prune.structures import Goal, Structure


@pytest.mark.parametrize(
    ("text", "structure"),
    [
        ("16x4", Structure(outputs=16, inputs=4)),
        ("unstructured", Structure(outputs=1, inputs=1)),
        ("2:4", Structure(outputs=1, inputs=1, most=2, of=4)),
        ("4:8", Structure(outputs=1, inputs=1, most=4, of=8)),
    ],
)
def test_names_are_read(text: str, structure: Structure) -> None:
    assert Structure.parse(text) == structure
    assert Goal(structure=text, sparsity=0.5).shape == structure


@pytest.mark.parametrize(
    "text",
    ["", "16", "16x", "0x4", "ax4", "16x4x2", "-1x4", "1.5x1", "4:4", "0:4", "2:", "2:4:8", " 2:4"],
)
def test_what_is_no_structure_is_none(text: str) -> None:
    assert Structure.parse(text) is None


@pytest.mark.parametrize(("text", "share"), [("2:4", 0.5), ("1:4", 0.75), ("16x4", None)])
def test_only_structures_of_neighbours_say_their_sparsity(text: str, share: float | None) -> None:
    structure = Structure.parse(text)
    assert structure is not None
    assert structure.fixed_sparsity == share
