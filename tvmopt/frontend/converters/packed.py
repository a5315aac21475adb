"""ONNX Runtime's weight-only operators: integers of a few bits, packed, with scales a block.

MatMulNBits holds a weight by its outputs: B: (n, ceil(k / g), g * bits / 8) uint8, the first code
in the lowest bits. It becomes ``forms.Grouped`` of (k, n), the form of our own passes.

Source: ONNX Runtime, "Contrib operators" (docs/ContribOperators.md), MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters.node import Converter, Node, rank

_BITS = (1, 2, 4, 8)  # those that do not cross bytes


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Return the codes that bytes hold, the first in the lowest bits.

    Args:
        packed: (..., b) uint8.
        bits: Of a code: 1, 2, 4 or 8.

    Returns:
        (..., b * 8 / bits) uint8, each in [0, 2**bits).
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = packed[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)


def _matmul_nbits(node: Node) -> relax.Expr:
    k, n = node.attribute("K", 0), node.attribute("N", 0)
    bits, size = node.attribute("bits", 4), node.attribute("block_size", 0)
    if bits not in _BITS:
        raise UnsupportedError(f"bits must be one of {', '.join(map(str, _BITS))}, got {bits}")
    if node.has(4):
        raise UnsupportedError("g_idx, an order of the rows, must be left out")
    blocks = -(-k // size)
    packed = node.constant(1, "the weight").astype(np.uint8).reshape(n, blocks, -1)
    codes = unpack(packed, bits)[..., :size]
    scale = node.constant(2, "the scales").astype(np.float32).reshape(n, blocks, 1)
    zero = _zero_points(node, bits, (n, blocks))
    if np.all(zero == np.rint(zero)):
        # The middle of the range as 0: kernels take signed codes.
        middle = 1 << (bits - 1)
        codes, zero = (codes.astype(np.int16) - middle).astype(np.int8), zero - middle
    weight = forms.Grouped(codes=codes, scale=scale, zero=zero if zero.any() else None, axis=1)
    x = node.input(0)
    if blocks * size != k:
        # The codes beyond k meet zeros; they may stand for any number.
        widths = [0] * (2 * rank(x) - 1) + [blocks * size - k]
        x = node.emit(relax.op.nn.pad(x, widths))
    matrix = weight.transposed((1, 0)).build(lambda expr, _name: node.emit(expr), node.name)
    if ir.dtype(x) != "float32":
        matrix = node.emit(relax.op.astype(matrix, ir.dtype(x)))
    y = relax.op.matmul(x, matrix)
    return relax.op.add(node.emit(y), node.input(5)) if node.has(5) else y


def _zero_points(node: Node, bits: int, blocks: tuple[int, int]) -> np.ndarray:
    """Return the zero points, (n, blocks, 1) float32: packed as the codes are, or as floats."""
    if not node.has(3):
        return np.full((*blocks, 1), 1 << (bits - 1), np.float32)
    given = node.constant(3, "the zero points")
    if given.dtype != np.uint8:
        return given.astype(np.float32).reshape(*blocks, 1)
    codes = unpack(given.reshape(blocks[0], -1), bits)[:, : blocks[1]]
    return codes.astype(np.float32)[..., None]


CONTRIB: Mapping[str, Converter] = {"MatMulNBits": _matmul_nbits}
