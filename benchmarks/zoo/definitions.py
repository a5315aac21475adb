"""Operators that ``onnx.reference`` 1.23 computes wrongly, by the standard's own words."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

# The base class finds the operator by the name of its subclass, and hands it all attributes of the
# model's opset, of which the older ones mean nothing at inference.


class BatchNormalization(OpRun):
    """There: below opset 14 a node that states its momentum is taken to be in training."""

    def _run(  # type: ignore[override]
        self,
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        epsilon: float | None = None,
        **_: Any,
    ) -> tuple[np.ndarray]:
        """Normalize (n, c, ...) by the running (c,) ``mean`` and ``variance``."""
        factor = scale / np.sqrt(variance + (1e-5 if epsilon is None else epsilon))
        shape = (-1, *[1] * (x.ndim - 2))
        return ((x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape),)


class GatherElements(OpRun):
    """There: refuses data that is longer than the indices along another axis."""

    def _run(  # type: ignore[override]
        self, data: np.ndarray, indices: np.ndarray, axis: int | None = None
    ) -> tuple[np.ndarray]:
        """Take along ``axis``; other axes of ``data`` may be longer than those of ``indices``."""
        axis = (axis or 0) % data.ndim
        wanted = (slice(None) if i == axis else slice(n) for i, n in enumerate(indices.shape))
        return (np.take_along_axis(data[tuple(wanted)], indices, axis),)


class GlobalMaxPool(OpRun):
    """There: (n, c, l) is reduced over c, too."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:  # type: ignore[override]
        """Reduce all axes but (n, c) to length 1."""
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


CORRECTED = (BatchNormalization, GatherElements, GlobalMaxPool)
