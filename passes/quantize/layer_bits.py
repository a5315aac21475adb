"""Which layers a pass takes, and with how many bits their weights are stored.

Layers that see the input, that give the result, and depthwise ones have few weights and feel the
rounding most; they keep 8 bits unless a rule says otherwise.

Source: M. Nagel et al., "A white paper on neural network quantization", arXiv:2106.08295, sections
2.4 and 4.3, for first, last and depthwise layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tvm import relax

from tvmopt.errors import OptionError
from tvmopt.passes.quantize.layers import Layer, check_patterns, find_layers, select


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


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChoice:
    """Which layers to take.

    Attributes:
        bits: Of most layers' weights.
        sensitive_bits: The fewest for depthwise, first and last layers.
        layers: Patterns of the layers to take.
        rules: Bits for some layers; the last that matches decides.
        skip: Layers to leave, by name, and why.
    """

    bits: int
    sensitive_bits: int
    layers: Sequence[str] = ("*",)
    rules: Sequence[LayerBits] = ()
    skip: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chosen:
    """A layer that is taken.

    Attributes:
        layer: The layer.
        bits: Of its weights.
        why: Why that many, where it is not what most get.
    """

    layer: Layer
    bits: int
    why: str = ""

    @property
    def described(self) -> str:
        """Say how many bits, and why."""
        return f"{self.bits}-bit weights" + (f" ({self.why})" if self.why else "")


def check_bits(name: str, bits: int) -> None:
    """Check the number of bits of weights.

    Raises:
        OptionError: It is not from 2 to 8.
    """
    if not 2 <= bits <= 8:
        raise OptionError(f"{name} must be from 2 to 8, got {bits!r}")


def check_group_size(size: int | None) -> None:
    """Check how many inputs share a scale.

    Raises:
        OptionError: It is not at least 2.
    """
    if size is not None and size < 2:
        raise OptionError(f"group_size must be at least 2, got {size!r}")


def why_no_groups(layer: Layer, size: int | None) -> str | None:
    """Return why the inputs of a layer's weight cannot be grouped; None if they can."""
    inputs = layer.weight.shape[layer.input_axis]
    if size is None or inputs % size == 0:
        return None
    return f"groups of {size} do not divide its {inputs} inputs"


def choose_layers(
    func: relax.Function, choice: LayerChoice
) -> tuple[list[Chosen], list[tuple[str, str]]]:
    """Return the layers of a function to take, and the names of the others with the reason.

    Raises:
        OptionError: A pattern matches no layer.
    """
    every = list(find_layers(func).values())
    check_patterns(every, [rule.pattern for rule in choice.rules])
    taken, left = select(every, choice.layers, choice.skip)
    reasons = [(layer.name, reason) for layer, reason in left]
    chosen = []
    for layer in taken:
        rule = next((r for r in reversed(choice.rules) if layer.matches(r.pattern)), None)
        if rule is None:
            chosen.append(_by_kind(layer, choice))
        elif rule.bits is None:
            reasons.append((layer.name, f"rule {rule.pattern!r}"))
        else:
            chosen.append(Chosen(layer=layer, bits=rule.bits, why=f"rule {rule.pattern!r}"))
    return chosen, reasons


def _by_kind(layer: Layer, choice: LayerChoice) -> Chosen:
    kinds = (("depthwise", layer.depthwise), ("first", layer.first), ("last", layer.last))
    kind = next((name for name, holds in kinds if holds), None)
    if kind is None or choice.sensitive_bits <= choice.bits:
        return Chosen(layer=layer, bits=choice.bits)
    return Chosen(layer=layer, bits=choice.sensitive_bits, why=f"{kind} layer")
