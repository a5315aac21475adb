"""Resize and Upsample."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters.interpolation import Axis, Resampling, nearest_source, weights
from tvmopt.frontend.converters.layout import transpose
from tvmopt.frontend.converters.node import Converter, Node, axis_of, constant, rank, shape

# Coordinate modes in which TVM's linear resize2d computes what ONNX says, given a scale that is
# the ratio of the sizes.
_TVM_LINEAR = frozenset({"half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"})


def _resampling(node: Node) -> Resampling:
    asymmetric = node.opset < 11  # Resize-10 and Upsample know only this
    return Resampling(
        mode=node.attribute("mode", "nearest"),
        coordinates="asymmetric"
        if asymmetric
        else node.attribute("coordinate_transformation_mode", "half_pixel"),
        nearest="floor" if asymmetric else node.attribute("nearest_mode", "round_prefer_floor"),
        cubic_a=node.attribute("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.attribute("exclude_outside", 0)),
        antialias=bool(node.attribute("antialias", 0)),
        extrapolation=node.attribute("extrapolation_value", 0.0),
    )


def _axes(node: Node, dims: list[int]) -> list[Axis]:
    """Return how each axis that changes is resized."""
    axes = [axis_of(a, len(dims)) for a in node.attribute("axes", list(range(len(dims))))]
    first = 1 if node.opset < 11 or node.op_type == "Upsample" else 2
    scales, sizes = None, None
    if node.op_type == "Upsample" and node.opset < 9:
        scales = node.attribute("scales", [])
    elif node.has(first) and shape(node.input(first)) != [0]:
        scales = node.constant(first, "the scales").astype(np.float64).tolist()
    if node.has(3):
        sizes = node.ints_input(3, "the sizes")
    roi = [0.0] * len(axes) + [1.0] * len(axes)
    if node.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        roi = node.constant(1, "the region of interest").astype(np.float64).tolist()
    if sizes is not None:
        scales, sizes = _keep_aspect(node, [dims[a] for a in axes], sizes)
    if scales is None or len(scales) != len(axes):
        raise UnsupportedError(f"it must have a scale or a size for each of the axes {axes}")
    found = []
    for i, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
        out = int(np.floor(dims[axis] * scale)) if sizes is None else sizes[i]
        region = (roi[i], roi[i + len(axes)])
        if out != dims[axis] or scale != 1.0 or region != (0.0, 1.0):
            found.append(Axis(axis=axis, size=dims[axis], out=out, scale=scale, region=region))
    return found


def _keep_aspect(
    node: Node, dims: list[int], sizes: list[int]
) -> tuple[list[float], list[int] | None]:
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    scales = [out / size for out, size in zip(sizes, dims, strict=True)]
    if policy == "stretch":
        return scales, sizes
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(dims), [int(np.floor(scale * size + 0.5)) for size in dims]


def _resize(node: Node) -> relax.Expr:
    x = node.input(0)
    how = _resampling(node)
    axes = _axes(node, shape(x))
    if [a.axis for a in axes] == [2, 3] and rank(x) == 4 and not how.antialias:
        if how.mode == "nearest" and all(_repeats(a, how) for a in axes):
            return _resize2d(x, axes, "nearest_neighbor", "asymmetric", "floor")
        whole = all(a.scale * a.size == a.out for a in axes)
        if how.mode == "linear" and how.coordinates in _TVM_LINEAR and whole:
            return _resize2d(x, axes, "linear", how.coordinates, "")
    for axis in axes:
        x = node.emit(_resize_axis(x, axis, how))
    return x


def _repeats(axis: Axis, how: Resampling) -> bool:
    """Say whether nearest-neighbour resizing repeats every element equally often."""
    times, rest = divmod(axis.out, axis.size)
    expected = np.arange(axis.out) // max(times, 1)
    return rest == 0 and np.array_equal(nearest_source(axis, how), expected)


def _resize2d(
    x: relax.Expr, axes: list[Axis], method: str, coordinates: str, rounding: str
) -> relax.Expr:
    return relax.op.image.resize2d(
        x,
        size=tuple(axis.out for axis in axes),
        layout="NCHW",
        method=method,
        coordinate_transformation_mode=coordinates,
        rounding_method=rounding,
    )


def _resize_axis(x: relax.Expr, axis: Axis, how: Resampling) -> relax.Expr:
    """Resize one axis: by gathering, or as a product with the matrix of the interpolation."""
    if how.mode == "nearest" and how.coordinates != "tf_crop_and_resize":
        source = constant(nearest_source(axis, how).astype(np.int64))
        return relax.op.take(x, source, axis=axis.axis, mode="wrap")
    matrix, outside = weights(axis, how)
    perm = [i for i in range(rank(x)) if i != axis.axis] + [axis.axis]
    back = [int(i) for i in np.argsort(perm)]
    moved = transpose(x, perm)
    y = relax.op.matmul(moved, constant(matrix.astype(ir.dtype(x))))
    if outside.any():
        y = relax.op.add(y, constant((outside * how.extrapolation).astype(ir.dtype(x))))
    return y if back == sorted(back) else relax.op.permute_dims(y, back)


TABLE: Mapping[str, Converter] = {"Resize": _resize, "Upsample": _resize}
