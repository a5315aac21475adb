"""Check and hand over arrays."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tvmopt.errors import DataError

ALIGNMENT = 64  # bytes; buffers so aligned are used in place


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """One input or output of a model.

    Attributes:
        name: The model's own name for it.
        dtype: NumPy's name of the element type.
        shape: Its lengths, all fixed.
        nbytes: Bytes of a dense array of this form; derived, and kept because each run needs it.
        element: ``dtype`` as NumPy's object; likewise.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int = field(init=False, repr=False)
    element: np.dtype[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        element = np.dtype(self.dtype)
        object.__setattr__(self, "nbytes", math.prod(self.shape) * element.itemsize)
        object.__setattr__(self, "element", element)


def address(array: np.ndarray) -> int:
    """Return where a dense array's data lies.

    ``array.ctypes.data`` does the same in four times as long, which small models would feel.
    """
    try:
        # Arrays are buffers; Python cannot say so in types before 3.12.
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # read-only, or no elements
        return array.ctypes.data


def aligned_empty(info: TensorInfo) -> np.ndarray:
    """Return an uninitialised array of the form of ``info`` that starts at a multiple of 64."""
    raw = np.empty(info.nbytes + ALIGNMENT, np.uint8)
    return np.ndarray(info.shape, info.element, buffer=raw, offset=-address(raw) % ALIGNMENT)


def _check(role: str, info: TensorInfo, array: np.ndarray) -> None:
    if array.dtype != info.element:
        raise DataError(f"{role} {info.name!r} must be {info.dtype}, got {array.dtype}")
    if array.shape != info.shape:
        raise DataError(f"{role} {info.name!r} must have shape {info.shape}, got {array.shape}")


def _names(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(repr(info.name) for info in infos)


def by_name(role: str, infos: Sequence[TensorInfo], given: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the arrays in the model's order.

    Raises:
        DataError: A name is missing or unknown.
    """
    unknown = [name for name in given if name not in {info.name for info in infos}]
    missing = [info for info in infos if info.name not in given]
    if unknown or missing:
        got = ", ".join(map(repr, given)) or "none"
        raise DataError(f"{role}s must be named {_names(infos)}, got {got}")
    return [np.asarray(given[info.name]) for info in infos]


def in_order(
    role: str, infos: Sequence[TensorInfo], given: Mapping[str, Any] | Any
) -> list[np.ndarray]:
    """Return the arrays of a mapping by name, or of the one array of a model that takes one.

    Raises:
        DataError: The names are wrong, or one array came for several tensors.
    """
    if isinstance(given, Mapping):
        return by_name(role, infos, given)
    if len(infos) != 1:
        raise DataError(f"{role}s must be given by name, the model has {_names(infos)}")
    return [np.asarray(given)]


def prepare_inputs(infos: Sequence[TensorInfo], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return dense arrays, the given ones where they are dense.

    Raises:
        DataError: A dtype or a shape is not the model's; nothing is converted in silence.
    """
    for info, array in zip(infos, arrays, strict=True):
        _check("input", info, array)
    return [
        array if array.flags.c_contiguous else np.ascontiguousarray(array).reshape(array.shape)
        for array in arrays
    ]


def check_outputs(infos: Sequence[TensorInfo], arrays: Sequence[np.ndarray]) -> None:
    """Check arrays that the caller wants the outputs in.

    Raises:
        DataError: One has another dtype or shape, is not dense, or cannot be written.
    """
    for info, array in zip(infos, arrays, strict=True):
        _check("output", info, array)
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise DataError(f"output {info.name!r} must be a contiguous, writeable array")
