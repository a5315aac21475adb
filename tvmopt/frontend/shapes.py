"""Give every graph input a static shape."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence

import onnx_ir

from tvmopt.errors import ShapeError

logger = logging.getLogger(__name__)

# What exporters write for "some size"; two dimensions so named need not be equal.
_ANONYMOUS = frozenset({"", "?", "None", "-1"})

Dim = int | str | None


def fix_shapes(
    model: onnx_ir.Model, shapes: Mapping[str, Sequence[int]] | None, label: str
) -> None:
    """Make the shape of every graph input static, in place.

    A given shape fixes its input; dimensions that share a name share the size; a first dimension
    that is the only open one of its input is a batch and becomes 1, which is logged.

    Args:
        model: The graph; its initializers are no inputs any more.
        shapes: Input name to shape.
        label: The model file, for messages.

    Raises:
        ShapeError: A name is unknown, a shape contradicts the model or another shape, or a
            dimension stays open.
    """
    given = {name: _checked(name, shape, label) for name, shape in (shapes or {}).items()}
    inputs = {str(value.name): value for value in model.graph.inputs}
    for name in given:
        if name not in inputs:
            raise ShapeError(f"{label}: {_unknown(name, list(inputs))}")
    declared = {name: _declared(value) for name, value in inputs.items()}
    sizes = _named_sizes(given, declared, label)
    fixed: dict[str, list[Dim] | None] = {
        name: [*given[name]] if name in given else _substitute(dims, sizes)
        for name, dims in declared.items()
    }
    for name, dims in fixed.items():
        if dims and not isinstance(dims[0], int) and all(isinstance(d, int) for d in dims[1:]):
            logger.info("%s: input %r: the open first dimension is taken as batch 1", label, name)
            dims[0] = 1
    _refuse_open(fixed, label)
    for name, dims in fixed.items():
        inputs[name].shape = onnx_ir.Shape(dims or ())


def _checked(name: str, shape: Sequence[int], label: str) -> tuple[int, ...]:
    try:
        dims = tuple(int(d) for d in shape)
    except (TypeError, ValueError) as err:
        raise ShapeError(
            f"{label}: the shape of input {name!r} must be a list of sizes, got {shape!r}"
        ) from err
    if any(d < 1 for d in dims) or dims != tuple(shape):
        raise ShapeError(
            f"{label}: the shape of input {name!r} must be whole sizes >= 1, got {tuple(shape)}"
        )
    return dims


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"a shape must be for one of the inputs {', '.join(map(repr, known))}, got {name!r}{hint}"
    )


def _declared(value: onnx_ir.Value) -> list[Dim] | None:
    if value.shape is None:
        return None
    # Some exporters write -1 for an open dimension.
    return [d.value if not isinstance(d, int) else d if d >= 0 else None for d in value.shape]


def _named_sizes(
    given: Mapping[str, tuple[int, ...]], declared: Mapping[str, list[Dim] | None], label: str
) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, shape in given.items():
        dims = declared[name]
        if dims is None:
            continue
        if len(dims) != len(shape):
            raise ShapeError(
                f"{label}: input {name!r} has {len(dims)} dimensions "
                f"{_spelled(dims)}, got the shape {shape}"
            )
        for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
            if isinstance(dim, int):
                if dim != size:
                    raise ShapeError(
                        f"{label}: dimension {axis} of input {name!r} is {dim} in the model, "
                        f"got {size} in the shape {shape}"
                    )
            elif dim is not None and dim not in _ANONYMOUS and sizes.setdefault(dim, size) != size:
                raise ShapeError(
                    f"{label}: dimension {axis} of input {name!r} is {dim!r}, which another "
                    f"given shape makes {sizes[dim]}, got {size} in the shape {shape}"
                )
    return sizes


def _substitute(dims: list[Dim] | None, sizes: Mapping[str, int]) -> list[Dim] | None:
    if dims is None:
        return None
    return [sizes.get(d, d) if isinstance(d, str) else d for d in dims]


def _spelled(dims: Sequence[Dim]) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in dims) + ")"


def _refuse_open(fixed: Mapping[str, list[Dim] | None], label: str) -> None:
    problems, flags = [], []
    for name, dims in fixed.items():
        if dims is None:
            problems.append(f"input {name!r} leaves its number of dimensions open")
            flags.append(f"--shape {name}=1x3x224x224")
            continue
        opened = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
        if opened:
            which = " and ".join(f"{axis} ({dims[axis] or '?'})" for axis in opened)
            plural = "s" if len(opened) > 1 else ""
            problems.append(f"input {name!r} leaves dimension{plural} {which} open")
            flags.append(f"--shape {name}={_example(dims)}")
    if problems:
        raise ShapeError(
            f"{label}: {'; '.join(problems)}; fix every size, for example with {' '.join(flags)}"
        )


def _example(dims: Sequence[Dim]) -> str:
    """Return ``dims`` as the flag spells a shape, with plausible sizes where they are open."""
    size = 224 if len(dims) == 4 else 128
    guess = [1 if axis == 0 else size for axis in range(len(dims))]
    return "x".join(str(d if isinstance(d, int) else guess[axis]) for axis, d in enumerate(dims))
