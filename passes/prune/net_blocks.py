"""Cut a net into blocks at the tensors through which everything flows.

A cut is a tensor that alone carries what the layers before it made to those behind it; what depends
on no layer, such as the mask of an attention, may pass beside it. Between two cuts lies a block: a
residual block, half a transformer block, or one layer of a plain chain. What follows a block's
last layer up to the next cut belongs to it, so that its output is what the next one reads.

Source: Y. Li et al., "BRECQ: pushing the limit of post-training quantization by block
reconstruction", ICLR 2021, for reconstructing blocks; how they are found is derived here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import variables
from tvmopt.passes.prune.derivatives import Forward, forward_of
from tvmopt.passes.quantize.layers import Layer, find_layers

_BESIDE = ("relax.matmul", "relax.nn.conv2d")  # what has outputs of its own
_SQUASHES = ("relax.nn.softmax", "relax.sigmoid")

_Binding = tuple[relax.Var, relax.Call]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """One binding of a block.

    Attributes:
        var: Its variable.
        call: What it is bound to.
        forward: How that is computed.
    """

    var: relax.Var
    call: relax.Call
    forward: Forward


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NetBlock:
    """What lies between two cuts.

    Attributes:
        steps: Its bindings, in order.
        layers: Its layers, in order.
        inputs: The tensors that it reads and does not make.
        output: The tensor behind it.
    """

    steps: tuple[Step, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[relax.Var, ...]
    output: relax.Var


def net_blocks(mod: tvm.IRModule) -> Iterator[NetBlock | tuple[Layer, str]]:
    """Yield the blocks of a net, in order, and the layers that are in none, with the reason.

    Args:
        mod: A graph of floats with distinct names.
    """
    layers = find_layers(mod["main"])
    bindings = [(v, c) for v, c in ir.bindings(mod["main"]) if isinstance(c, relax.Call)]
    behind = _behind(bindings, layers)
    for part, tails in _segments(bindings, _cuts(mod, bindings, behind), layers):
        own = [layers[var] for var, _ in part if var in layers]
        steps, odd = _steps(part, behind)
        if odd:
            reason = f"its block has {odd}, whose derivative is not known"
            yield from ((layer, reason) for layer in own)
            continue
        for tail in tails:
            more, odd = _steps(tail, behind)
            if odd or any(_narrows(step.call) for step in more):
                break
            steps += more
        yield _block(steps, own)


def longest_stretch(mod: tvm.IRModule) -> NetBlock | str:
    """Return the most layers in a row whose derivatives are known as one block, or why none is.

    It reaches from a cut to a cut; a softmax or sigmoid behind its last layer is left out, so that
    a classifier's output is its logits.

    Args:
        mod: A graph of floats with distinct names.
    """
    layers = find_layers(mod["main"])
    bindings = [(v, c) for v, c in ir.bindings(mod["main"]) if isinstance(c, relax.Call)]
    behind = _behind(bindings, layers)
    stretches: list[list[Step]] = [[]]
    unknown, start = "", 0
    for cut in _cuts(mod, bindings, behind):
        steps, odd = _steps(bindings[start : cut + 1], behind)
        unknown, start = unknown or odd, cut + 1
        if odd:
            stretches.append([])
        stretches[-1] += steps
    best = max(stretches, key=lambda steps: sum(step.var in layers for step in steps))
    while best and ir.is_call_to(best[-1].call, *_SQUASHES):
        best.pop()
    own = tuple(layers[step.var] for step in best if step.var in layers)
    if not own:
        reason = f"it has {unknown}, whose derivative is not known" if unknown else ""
        return reason or "no tensor alone carries what its layers made"
    return _block(best, own)


def _block(steps: Sequence[Step], layers: Sequence[Layer]) -> NetBlock:
    made = {step.var for step in steps}
    read = dict.fromkeys(v for s in steps for v in variables(s.call) if v not in made)
    return NetBlock(
        steps=tuple(steps), layers=tuple(layers), inputs=tuple(read), output=steps[-1].var
    )


def _narrows(call: relax.Call) -> bool:
    """Say whether a result has fewer numbers than an operand: less to tell a net by."""
    operands = [arg for arg in call.args if isinstance(arg, relax.Var)]
    return any(prod(ir.static_shape(call)) < prod(ir.static_shape(arg)) for arg in operands)


def order_of(
    var: relax.Var, mod: tvm.IRModule, outputs: Mapping[str, np.ndarray]
) -> np.ndarray | str | None:
    """Return which channels of the tensor as it was those of ``var`` are.

    Args:
        var: A tensor of ``mod``.
        mod: A net whose layers may have lost or reordered outputs.
        outputs: For each of those layers, by name: the numbers that its outputs had.

    Returns:
        (channels,) numbers; None where all are as they were; a reason where nobody knows.
    """
    values = dict(ir.bindings(mod["main"]))
    found: dict[bytes, np.ndarray] = {}
    plain, todo, seen = False, [var], {var}
    while todo:
        one = todo.pop()
        if one.name in outputs:
            found[outputs[one.name].tobytes()] = outputs[one.name]
        elif one not in values or ir.is_call_to(values[one], *_BESIDE):
            plain = True
        else:
            fresh = [v for v in variables(values[one]) if v not in seen]
            seen.update(fresh)
            todo += fresh
    if len(found) + plain > 1:
        return "the channels of its output come from layers that were reordered differently"
    return next(iter(found.values()), None)


def _behind(bindings: Sequence[_Binding], layers: Collection[relax.Var]) -> set[relax.Var]:
    """Return the layers' variables and all that is computed from them."""
    behind: set[relax.Var] = set()
    for var, call in bindings:
        if var in layers or any(read in behind for read in variables(call)):
            behind.add(var)
    return behind


def _cuts(
    mod: tvm.IRModule, bindings: Sequence[_Binding], behind: Collection[relax.Var]
) -> list[int]:
    """Return the bindings, by number, behind which one tensor alone carries what layers made."""
    last = {read: i for i, (_, call) in enumerate(bindings) for read in variables(call)}
    last |= dict.fromkeys(_returned(mod), len(bindings))
    cuts, alive = list[int](), set[relax.Var]()
    for i, (var, _) in enumerate(bindings):
        if var in behind:
            alive.add(var)
        alive = {v for v in alive if last.get(v, -1) > i}
        if alive == {var}:
            cuts.append(i)
    return cuts


def _returned(mod: tvm.IRModule) -> Iterator[relax.Var]:
    values = dict(ir.bindings(mod["main"]))
    result = mod["main"].body.body
    value = values.get(result, result) if isinstance(result, relax.Var) else result
    yield from variables(value)
    if isinstance(result, relax.Var):
        yield result


def _segments(
    bindings: Sequence[_Binding], cuts: Sequence[int], layers: Collection[relax.Var]
) -> Iterator[tuple[list[_Binding], list[list[_Binding]]]]:
    """Yield the bindings up to the first cut behind some layers, and those between cuts without."""
    start = 0
    held: tuple[list[_Binding], list[list[_Binding]]] | None = None
    for cut in cuts:
        part = list(bindings[start : cut + 1])
        start = cut + 1
        if any(var in layers for var, _ in part):
            if held is not None:
                yield held
            held = part, []
        elif held is not None:
            held[1].append(part)
    if held is not None:
        yield held


def _steps(part: Sequence[_Binding], behind: Collection[relax.Var]) -> tuple[list[Step], str]:
    """Return how what depends on layers is computed; or the first operator that is not known."""
    steps = []
    for var, call in part:
        forward = forward_of(call) if var in behind else None
        if var in behind and forward is None:
            return [], str(call.op.name)
        if forward is not None:
            steps.append(Step(var=var, call=call, forward=forward))
    return steps, ""
