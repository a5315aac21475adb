"""Normalizations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters.node import (
    Converter,
    Node,
    axis_of,
    constant,
    rank,
    scalar,
    shape,
)


def _batch_norm(node: Node) -> relax.Expr:
    if node.attribute("training_mode", 0):
        raise UnsupportedError("training_mode must be 0")
    x, gamma, beta, mean, variance = (node.input(i) for i in range(5))
    return relax.TupleGetItem(
        node.emit(
            relax.op.nn.batch_norm(
                x,
                gamma,
                beta,
                mean,
                variance,
                axis=1,
                epsilon=node.attribute("epsilon", 1e-5),
                training=False,
            )
        ),
        0,
    )


def _layer_norm(node: Node) -> tuple[relax.Expr, ...]:
    """Convert LayerNormalization; its mean and 1 / deviation are computed where they are used."""
    x, gamma = node.input(0), node.input(1)
    axes = list(range(axis_of(node.attribute("axis", -1), rank(x)), rank(x)))
    epsilon = node.attribute("epsilon", 1e-5)
    beta = node.input(2) if node.has(2) else constant(np.zeros(shape(gamma), ir.dtype(gamma)))
    dims = [shape(x)[axis] for axis in axes]
    if shape(gamma) != dims or shape(beta) != dims:
        raise UnsupportedError(
            f"scale and bias must have the normalized shape {dims}, got {shape(gamma)} and "
            f"{shape(beta)}"
        )
    y = relax.op.nn.layer_norm(x, gamma, beta, axes, epsilon)
    if node.outputs == 1:
        return (y,)
    mean = node.emit(relax.op.mean(x, axes, keepdims=True))
    variance = relax.op.variance(x, axes, keepdims=True)
    return y, mean, relax.op.rsqrt(relax.op.add(variance, scalar(epsilon, x)))


def _lp_normalization(node: Node) -> relax.Expr:
    x = node.input(0)
    axis = axis_of(node.attribute("axis", -1), rank(x))
    if node.attribute("p", 2) == 1:
        norm = relax.op.sum(relax.op.abs(x), axis, keepdims=True)
    else:
        norm = relax.op.sqrt(relax.op.sum(relax.op.multiply(x, x), axis, keepdims=True))
    empty = relax.op.equal(norm, scalar(0, x))  # a vector of zeros stays one
    return relax.op.divide(x, relax.op.where(empty, scalar(1, x), norm))


def _rms_norm(node: Node) -> relax.Expr:
    x, gamma = node.input(0), node.input(1)
    axes = list(range(axis_of(node.attribute("axis", -1), rank(x)), rank(x)))
    epsilon = node.attribute("epsilon", 1e-5)
    if node.attribute("stash_type", 1) != 1:
        raise UnsupportedError("stash_type must be 1, float32")
    if len(axes) < rank(x) and shape(gamma) == [shape(x)[axis] for axis in axes]:
        return relax.op.nn.rms_norm(x, gamma, axes, epsilon)
    wide = relax.op.astype(x, "float32") if ir.dtype(x) == "float16" else x
    square = relax.op.mean(relax.op.multiply(wide, wide), axes, keepdims=True)
    dtype = "float32" if ir.dtype(x) == "float16" else ir.dtype(x)
    scaled = relax.op.multiply(
        wide, relax.op.rsqrt(relax.op.add(square, relax.const(epsilon, dtype)))
    )
    narrow = scaled if dtype == ir.dtype(x) else relax.op.astype(scaled, ir.dtype(x))
    return relax.op.multiply(narrow, gamma)


TABLE: Mapping[str, Converter] = {
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_normalization,
    "RMSNormalization": _rms_norm,
}
