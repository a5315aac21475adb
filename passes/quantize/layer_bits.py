"""With how many bits the weights of each layer are stored.

Layers that see the input, that give the result, and depthwise ones have few weights and feel the
rounding most; they keep 8 bits unless a rule says otherwise.

Source: M. Nagel et al., "A white paper on neural network quantization", arXiv:2106.08295, sections
2.4 and 4.3, for first, last and depthwise layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmopt.errors import OptionError
from tvmopt.passes.quantize.layers import Layer


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerBits:
    """What the layers that a pattern matches get, whatever else is said.

    Attributes:
        pattern: Of layers' names, as of a shell.
        bits: Of their weights, from 2 to 8; None leaves them in floats.

    Raises:
        OptionError: ``bits`` is outside that range.
    """

    pattern: str
    bits: int | None

    def __post_init__(self) -> None:
        if self.bits is not None:
            check_bits("bits", self.bits)


def check_bits(name: str, bits: int) -> None:
    """Check the number of bits of weights.

    Raises:
        OptionError: It is not from 2 to 8.
    """
    if not 2 <= bits <= 8:
        raise OptionError(f"{name} must be from 2 to 8, got {bits!r}")


def bits_of(
    layer: Layer, bits: int, sensitive_bits: int, rules: Sequence[LayerBits]
) -> tuple[int | None, str]:
    """Return the bits of a layer's weights, None for floats, and why where it is not ``bits``.

    Args:
        layer: The layer.
        bits: For most layers.
        sensitive_bits: The fewest for depthwise, first and last layers.
        rules: The last that matches decides.
    """
    for rule in reversed(rules):
        if layer.matches(rule.pattern):
            return rule.bits, f"rule {rule.pattern!r}"
    kinds = (("depthwise", layer.depthwise), ("first", layer.first), ("last", layer.last))
    kind = next((name for name, holds in kinds if holds), None)
    if kind is not None and sensitive_bits > bits:
        return sensitive_bits, f"{kind} layer"
    return bits, ""
