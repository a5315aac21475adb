"""Which converter an ONNX operator gets; one file an operator family."""

from __future__ import annotations

from collections.abc import Mapping

from tvmopt.frontend.converters import (
    conv,
    elementwise,
    gather,
    integers,
    layout,
    linear,
    norm,
    packed,
    padding,
    pool,
    quantized,
    reduce,
    resize,
)
from tvmopt.frontend.converters.node import Converter
from tvmopt.frontend.converters.tvm_table import tvm_converters

_FAMILIES = (
    conv,
    elementwise,
    gather,
    integers,
    layout,
    linear,
    norm,
    padding,
    pool,
    quantized,
    reduce,
    resize,
)
_CONTRIB_FAMILIES = (integers, packed, quantized)


def converter_table() -> Mapping[tuple[str, str], Converter]:
    """Return the converters by (domain, operator): ours, and TVM's where there is none of ours."""
    own = {("", op): convert for family in _FAMILIES for op, convert in family.TABLE.items()}
    contrib = {
        ("com.microsoft", op): convert
        for family in _CONTRIB_FAMILIES
        for op, convert in family.CONTRIB.items()
    }
    return {**tvm_converters(), **own, **contrib}
