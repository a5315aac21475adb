"""The element types of ONNX tensors that the compiler has kernels for."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir

from tvmopt.errors import UnsupportedError

_TYPES = onnx_ir.DataType

DTYPES: Mapping[onnx_ir.DataType, str] = {
    _TYPES.BOOL: "bool",
    _TYPES.DOUBLE: "float64",
    _TYPES.FLOAT: "float32",
    _TYPES.FLOAT16: "float16",
    _TYPES.INT8: "int8",
    _TYPES.INT16: "int16",
    _TYPES.INT32: "int32",
    _TYPES.INT64: "int64",
    _TYPES.UINT8: "uint8",
    _TYPES.UINT16: "uint16",
    _TYPES.UINT32: "uint32",
    _TYPES.UINT64: "uint64",
}

# Constants of integers below a byte are held one a byte: kernels recognise them by their range.
# Only constants: arithmetic on int8 would not wrap or saturate where int4 does.
PACKED: Mapping[onnx_ir.DataType, str] = {_TYPES.INT4: "int8", _TYPES.UINT4: "uint8"}


def dtype_name(dtype: onnx_ir.DataType | int | None, what: str) -> str:
    """Return an ONNX element type as NumPy and TVM spell it.

    Args:
        dtype: As ONNX numbers them.
        what: What has this type, for the message.

    Raises:
        UnsupportedError: It is none of those with kernels.
    """
    known = None if dtype not in set(_TYPES) else _TYPES(dtype or 0)
    if known is not None and known in DTYPES:
        return DTYPES[known]
    came = repr(dtype) if known is None else known.name
    raise UnsupportedError(f"{what} must be float16/32/64, (u)int8/16/32/64 or bool, got {came}")
