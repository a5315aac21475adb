"""The ways to compress that are compared: weights of 8 to 4 bits, each with each repair. Data only.

A method is a recipe, written as a recipe file is; a pass that this version does not have makes the
row say so, and nothing else. ``keep = "all"`` so that every layer is compressed whether it pays or
not: the table is about accuracy. The named recipes, which keep what pays, are methods too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BITS = (8, 7, 6, 5, 4)

Pass = Mapping[str, Any]

_GPTQ: Pass = {"name": "repair-weights", "method": "gptq"}
_ADAROUND: Pass = {"name": "repair-weights", "method": "adaround"}

# Passes before and after the one that quantizes.
REPAIRS: Mapping[str, tuple[Sequence[Pass], Sequence[Pass]]] = {
    "none": ((), ()),
    "correct-bias": ((), ({"name": "correct-bias"},)),
    "equalize": (({"name": "equalize-layers"},), ()),
    "smooth": (({"name": "smooth-quant"},), ()),
    "adaround": ((), (_ADAROUND,)),
    "gptq": ((), (_GPTQ,)),
    "equalize + gptq": (({"name": "equalize-layers"},), (_GPTQ,)),
    "smooth + gptq": (({"name": "smooth-quant"},), (_GPTQ,)),
}
NAMED = ("int8", "w5a8", "w4a8", "int8-dynamic", "w8", "w4", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A way to compress.

    Attributes:
        name: For tables, and what results are kept by.
        text: The recipe file; empty for a named recipe.
        beside_rivals: Whether its artefact is timed beside rivals, too.
    """

    name: str
    text: str = ""
    beside_rivals: bool = False

    def source(self, folder: Path) -> str | Path:
        """Return what ``Model.apply`` takes, after writing the file if there is one."""
        if not self.text:
            return self.name
        path = folder / "method.toml"
        path.write_text(self.text, encoding="utf-8")
        return path


def static(bits: int, repair: str) -> Method:
    """Return static quantization with weights of ``bits`` bits and activations of 8."""
    before, after = REPAIRS[repair]
    quantize = {"name": "quantize-static", "weight_bits": bits}
    return Method(name=f"W{bits}A8 {repair}", text=recipe_text([*before, quantize, *after]))


def named(name: str) -> Method:
    """Return a recipe that comes with tvmopt."""
    return Method(name=name)


def recipe_text(passes: Iterable[Pass], keep: str = "all") -> str:
    """Return a recipe file; it keeps what the passes do whether it pays or not, unless it says."""
    return "".join([f'keep = "{keep}"\n', *map(_table, passes)])


def _table(options: Pass) -> str:
    # JSON's strings, numbers and booleans are TOML's.
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in options.items())
    return "\n[[pass]]\n" + "".join(lines)
