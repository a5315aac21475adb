"""Operators of a canonical graph of floats with their derivatives, in NumPy, one batch at a time.

``forward(x, ...)`` gives the output, and the function that turns the derivative of a scalar by the
output into those by the operands. Only what nets are made of between their layers is here; a
block with another operator is left as it is.

Source: none; the chain rule. The gradients of layer norm and softmax are the usual closed forms,
that of GELU is of ``x Phi(x)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import erf
from tvm import relax

from tvmopt import ir
from tvmopt.passes.prune.convolve import conv2d

Back = Callable[[np.ndarray], tuple[np.ndarray, ...]]
Forward = Callable[..., tuple[np.ndarray, Back]]
"""Takes the operands, float32; gives the output and its ``Back``."""


def forward_of(call: relax.Call) -> Forward | None:
    """Return how an operator is computed; None where its derivative is not known here."""
    name, attrs = str(getattr(call.op, "name", "")), call.attrs
    if name in _PLAIN:
        return _PLAIN[name]
    match name:
        case "relax.nn.conv2d":
            return conv2d(call)
        case "relax.reshape":
            return _reshape(ir.static_shape(call))
        case "relax.permute_dims":
            count = len(ir.static_shape(call))
            axes = attrs.axes
            return _permute(range(count)[::-1] if axes is None else [int(a) for a in axes])
        case "relax.clip":
            return _clip(*(float(arg.value) for arg in call.args[1:]))
        case "relax.mean":
            axes = range(len(ir.static_shape(call.args[0]))) if attrs.axis is None else attrs.axis
            return _mean([int(a) for a in axes], keepdims=bool(attrs.keepdims))
        case "relax.nn.softmax":
            return _softmax(int(attrs.axis))
        case "relax.sum":
            axes = range(len(ir.static_shape(call.args[0]))) if attrs.axis is None else attrs.axis
            return _sum([int(a) for a in axes], keepdims=bool(attrs.keepdims))
        case "relax.broadcast_to":
            return _broadcast(ir.static_shape(call.args[0]), ir.static_shape(call))
        case "relax.nn.layer_norm" if _last(call, attrs.axes):
            return _layer_norm(float(attrs.epsilon))
    return None


def _last(call: relax.Call, axes: Sequence[int]) -> bool:
    """Say whether axes are the last one of an operator's data."""
    rank = len(ir.static_shape(call.args[0]))
    return [int(axis) % rank for axis in axes] == [rank - 1]


def _as(shape: tuple[int, ...], gradient: np.ndarray) -> np.ndarray:
    """Return a gradient summed over what an operand of ``shape`` was repeated along."""
    extra = gradient.ndim - len(shape)
    repeated = [i + extra for i, n in enumerate(shape) if n == 1 and gradient.shape[i + extra] > 1]
    return gradient.sum(axis=(*range(extra), *repeated), keepdims=True).reshape(shape)


def _add(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Back]:
    return a + b, lambda g: (_as(a.shape, g), _as(b.shape, g))


def _subtract(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Back]:
    return a - b, lambda g: (_as(a.shape, g), -_as(b.shape, g))


def _multiply(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Back]:
    return a * b, lambda g: (_as(a.shape, g * b), _as(b.shape, g * a))


def _divide(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Back]:
    y = a / b
    return y, lambda g: (_as(a.shape, g / b), -_as(b.shape, g * y / b))


def _matmul(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Back]:
    def back(g: np.ndarray) -> tuple[np.ndarray, ...]:
        by_a = np.matmul(g, b.swapaxes(-1, -2))
        if b.ndim == 2:
            return by_a, a.reshape(-1, a.shape[-1]).T @ g.reshape(-1, g.shape[-1])
        return _as(a.shape, by_a), _as(b.shape, np.matmul(a.swapaxes(-1, -2), g))

    return np.matmul(a, b), back


def _relu(x: np.ndarray) -> tuple[np.ndarray, Back]:
    return np.maximum(x, 0), lambda g: (g * (x > 0),)


def _maximum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Back]:
    return np.maximum(a, b), lambda g: (_as(a.shape, g * (a >= b)), _as(b.shape, g * (a < b)))


def _sqrt(x: np.ndarray) -> tuple[np.ndarray, Back]:
    y = np.sqrt(x)
    return y, lambda g: (g / (2.0 * np.maximum(y, np.finfo(y.dtype).tiny)),)


def _sigmoid(x: np.ndarray) -> tuple[np.ndarray, Back]:
    y = 0.5 * (1.0 + np.tanh(0.5 * x))
    return y, lambda g: (g * y * (1.0 - y),)


def _tanh(x: np.ndarray) -> tuple[np.ndarray, Back]:
    y = np.tanh(x)
    return y, lambda g: (g * (1.0 - y * y),)


def _gelu(x: np.ndarray) -> tuple[np.ndarray, Back]:
    below = 0.5 * (1.0 + erf(x * np.float32(np.sqrt(0.5))))

    def back(g: np.ndarray) -> tuple[np.ndarray, ...]:
        density = np.exp(-0.5 * x * x) * np.float32(1.0 / np.sqrt(2.0 * np.pi))
        return (g * (below + x * density),)

    return x * below, back


def _clip(low: float, high: float) -> Forward:
    def forward(x: np.ndarray, *_ends: np.ndarray) -> tuple[np.ndarray, Back]:
        return np.clip(x, np.float32(low), np.float32(high)), lambda g: (
            g * ((x > low) & (x < high)),
        )

    return forward


def _reshape(shape: tuple[int, ...]) -> Forward:
    # Along the first axis there may be more: several batches at once.
    wide = (-1, *shape[1:]) if shape else shape

    def forward(x: np.ndarray, *_shape: np.ndarray) -> tuple[np.ndarray, Back]:
        return x.reshape(wide), lambda g: (g.reshape(x.shape),)

    return forward


def _permute(axes: Sequence[int]) -> Forward:
    back = np.argsort(axes)
    return lambda x: (x.transpose(axes), lambda g: (g.transpose(back),))


def _mean(axes: Sequence[int], *, keepdims: bool) -> Forward:
    def forward(x: np.ndarray) -> tuple[np.ndarray, Back]:
        y = x.mean(axis=tuple(axes), keepdims=True)
        share = np.float32(y.size / x.size)
        out = y if keepdims else y.squeeze(tuple(axes))
        return out, lambda g: (np.broadcast_to(g.reshape(y.shape) * share, x.shape),)

    return forward


def _sum(axes: Sequence[int], *, keepdims: bool) -> Forward:
    def forward(x: np.ndarray) -> tuple[np.ndarray, Back]:
        y = x.sum(axis=tuple(axes), keepdims=True)
        out = y if keepdims else y.squeeze(tuple(axes))
        return out, lambda g: (np.broadcast_to(g.reshape(y.shape), x.shape),)

    return forward


def _broadcast(old: tuple[int, ...], new: tuple[int, ...]) -> Forward:
    extra = len(new) - len(old)
    copies = tuple(n if i < extra or old[i - extra] != n else 1 for i, n in enumerate(new))

    def forward(x: np.ndarray, *_shape: np.ndarray) -> tuple[np.ndarray, Back]:
        wide = x.reshape((1,) * extra + x.shape)
        shape = tuple(c if c > 1 else n for c, n in zip(copies, wide.shape, strict=True))
        return np.broadcast_to(wide, shape), lambda g: (_as(x.shape, g),)

    return forward


def _softmax(axis: int) -> Forward:
    def forward(x: np.ndarray) -> tuple[np.ndarray, Back]:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        y = e / e.sum(axis=axis, keepdims=True)
        return y, lambda g: (y * (g - (g * y).sum(axis=axis, keepdims=True)),)

    return forward


def _layer_norm(epsilon: float) -> Forward:
    def forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, Back]:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = 1.0 / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(epsilon))
        unit = centred * scale

        def back(g: np.ndarray) -> tuple[np.ndarray, ...]:
            d = g * gamma
            along = (d * unit).mean(axis=-1, keepdims=True)
            by_x = scale * (d - d.mean(axis=-1, keepdims=True) - unit * along)
            return by_x, _as(gamma.shape, g * unit), _as(beta.shape, g)

        return unit * gamma + beta, back

    return forward


_PLAIN: dict[str, Forward] = {
    "relax.add": _add,
    "relax.subtract": _subtract,
    "relax.multiply": _multiply,
    "relax.divide": _divide,
    "relax.matmul": _matmul,
    "relax.maximum": _maximum,
    "relax.sqrt": _sqrt,
    "relax.nn.relu": _relu,
    "relax.sigmoid": _sigmoid,
    "relax.tanh": _tanh,
    "relax.nn.gelu": _gelu,
}
