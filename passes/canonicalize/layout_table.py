"""Which operator runs on stored tensors by which rule; one that is not here gets plain ones."""

from __future__ import annotations

from collections.abc import Mapping

from tvmopt.passes.canonicalize import layout_rules as rules
from tvmopt.passes.canonicalize.layout_broadcast import elementwise
from tvmopt.passes.canonicalize.layout_matmul import matmul
from tvmopt.passes.canonicalize.layout_reduce import arg_reduce, reduce

_UNARY = (
    *("abs", "acos", "acosh", "asin", "asinh", "astype", "atan", "atanh", "bitwise_not", "ceil"),
    *("clip", "cos", "cosh", "erf", "exp", "floor", "isfinite", "isinf", "isnan", "log"),
    *("logical_not", "negative", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt"),
    *("square", "tan", "tanh", "trunc", "nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.relu"),
    *("nn.selu", "nn.silu", "nn.softplus"),
)
_N_ARY = (
    *("add", "atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "divide", "equal"),
    *("floor_divide", "floor_mod", "greater", "greater_equal", "left_shift", "less"),
    *("less_equal", "logical_and", "logical_or", "logical_xor", "maximum", "minimum", "mod"),
    *("multiply", "not_equal", "power", "right_shift", "subtract", "where"),
)
_REDUCTIONS = ("max", "mean", "min", "prod", "std", "sum", "variance")
_ALONG_AN_AXIS = ("cumprod", "cumsum", "flip", "nn.log_softmax", "nn.prelu", "nn.softmax")
_POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "max_pool3d", "avg_pool3d")

LAYOUT_RULES: Mapping[str, rules.LayoutRule] = {
    **{f"relax.{name}": elementwise for name in (*_UNARY, *_N_ARY)},
    **{f"relax.{name}": reduce for name in _REDUCTIONS},
    **{f"relax.{name}": rules.along() for name in _ALONG_AN_AXIS},
    **{f"relax.nn.{name}": rules.spatial("layout", "out_layout") for name in _POOLS},
    "relax.argmax": arg_reduce,
    "relax.argmin": arg_reduce,
    "relax.broadcast_to": rules.broadcast_to,
    "relax.concat": rules.concat,
    "relax.dequantize": rules.quantize,
    "relax.expand_dims": rules.regroup,
    "relax.flatten": rules.regroup,
    "relax.image.resize2d": rules.spatial("layout"),
    "relax.matmul": matmul,
    "relax.nn.conv2d": rules.convolution,
    "relax.nn.conv2d_transpose": rules.convolution,
    "relax.nn.conv3d": rules.convolution,
    "relax.nn.layer_norm": rules.normalize,
    "relax.nn.pad": rules.pad,
    "relax.nn.rms_norm": rules.normalize,
    "relax.permute_dims": rules.permute,
    "relax.quantize": rules.quantize,
    "relax.reshape": rules.regroup,
    "relax.split": rules.split,
    "relax.squeeze": rules.regroup,
    "relax.strided_slice": rules.strided_slice,
    "relax.take": rules.take,
    "relax.tile": rules.tile,
}
