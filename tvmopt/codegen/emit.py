"""Write a plan as C tables, and the public header.

The tables hold offsets instead of pointers wherever the executor allows it, so that loading an
artefact relocates a few dozen words and not thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources

from tvmopt.codegen import features
from tvmopt.codegen.plan import BITS, Argument, Plan, Port, align_up
from tvmopt.errors import UnsupportedError

_C = resources.files("tvmopt.codegen") / "c"
_CODES = {"int": 0, "uint": 1, "float": 2, "bool": 6}  # DLDataTypeCode


def source_files() -> dict[str, bytes]:
    """Return the hand-written part of the executor by file name."""
    files = [path for path in _C.iterdir() if path.name.endswith((".c", ".h", ".S"))]
    return {path.name: path.read_bytes() for path in sorted(files, key=lambda path: path.name)}


def _string(text: str) -> str:
    """Return ``text`` as a C literal of plain ASCII; octal escapes cannot run into what follows."""
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(plain)}"'


def _table(head: str, rows: Iterable[str], empty: str = "{0}") -> str:
    """Return a definition of an array; C has no empty ones, so ``empty`` stands in for no rows."""
    body = "".join(f"    {row},\n" for row in rows) or f"    {empty},\n"
    return f"static const {head}[] = {{\n{body}}};\n"


class _Names:
    """Strings one after another, each once, known by their offset."""

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}
        self.size = 0

    def add(self, name: str) -> int:
        if name not in self.offsets:
            self.offsets[name] = self.size
            self.size += len(name.encode()) + 1
        return self.offsets[name]

    def table(self) -> str:
        literals = "\n".join(f'    {_string(name)} "\\0"' for name in self.offsets)
        return f"static const char plan_names[] =\n{literals};\n"


def _argument(argument: Argument, plan: Plan, starts: Sequence[int]) -> str:
    code = next(code for prefix, code in _CODES.items() if argument.dtype.startswith(prefix))
    place = argument.place
    ndim = len(plan.shapes[argument.shape])
    if ndim > 255 or place.port > 65535:
        raise UnsupportedError("a tensor must have at most 255 dimensions, a model 65536 outputs")
    return (
        f"{{{place.offset}u, {starts[argument.shape]}, {place.port}, {int(place.space)}, {ndim}, "
        f"{code}, {BITS[argument.dtype]}}}"
    )


def _ports(kind: str, ports: Sequence[Port]) -> str:
    shapes = "".join(
        f"static const int64_t plan_{kind}_shape_{i}[] = "
        f"{{{', '.join(map(str, port.shape)) or '0'}}};\n"
        for i, port in enumerate(ports)
    )
    rows = (
        f"{{{_string(port.name)}, {_string(port.dtype)}, {len(port.shape)}, "
        f"plan_{kind}_shape_{i}, {port.size}u}}"
        for i, port in enumerate(ports)
    )
    return shapes + _table(f"tvmopt_tensor plan_{kind}s", rows)


def _feature(check: features.Check) -> str:
    numbers = (check.leaf, check.subleaf, check.word, check.mask, check.os_state)
    return f"{{{_string(check.name)}, {', '.join(f'{n}u' for n in numbers)}}}"


def _shape_starts(plan: Plan) -> list[int]:
    starts = [0]
    for shape in plan.shapes:
        starts.append(starts[-1] + len(shape))
    return starts


def _is_bound(argument: Argument) -> bool:
    return argument.place.space.name in {"INPUT", "OUTPUT"}


def _steps(plan: Plan, names: _Names) -> str:
    rows, first = [], 0
    for step in plan.steps:
        rows.append(f"{{{step.kernel}, {first}, {len(step.arguments)}, {names.add(step.layer)}}}")
        first += len(step.arguments)
    return _table("plan_step plan_steps", rows)


def _blocks(plan: Plan) -> str:
    rows, first = [], 0
    for block in plan.blocks:
        rows.append(f"{{{first}, {len(block.steps)}}}")
        first += len(block.steps)
    return _table("plan_block plan_blocks", rows)


def tables(plan: Plan, checks: Sequence[features.Check]) -> str:
    """Return plan.h: everything that the executor's loops walk over."""
    arguments = [argument for step in plan.steps for argument in step.arguments]
    starts = _shape_starts(plan)
    names = _Names()
    steps = _steps(plan, names)
    parts = [
        _table("int64_t plan_shapes", (", ".join(map(str, s)) for s in plan.shapes if s), "0"),
        _table("plan_argument plan_arguments", (_argument(a, plan, starts) for a in arguments)),
        _table(
            "uint32_t plan_bound", (str(i) for i, a in enumerate(arguments) if _is_bound(a)), "0"
        ),
        steps,
        _blocks(plan),
        names.table(),
        _ports("input", plan.inputs),
        _ports("output", plan.outputs),
        _table("cpu_feature plan_features", map(_feature, checks)),
    ]
    return "\n".join(parts)


def sizes(plan: Plan, name: str, checks: Sequence[features.Check]) -> str:
    """Return sizes.h: the counts of the tables, and the model's name."""
    arguments = [argument for step in plan.steps for argument in step.arguments]
    ports = (*plan.inputs, *plan.outputs)
    numbers = {
        "PLAN_INPUTS": len(plan.inputs),
        "PLAN_OUTPUTS": len(plan.outputs),
        "PLAN_STEPS": len(plan.steps),
        "PLAN_ARGUMENTS": len(arguments),
        "PLAN_BOUND": sum(map(_is_bound, arguments)),
        "PLAN_SHAPES": max(sum(map(len, plan.shapes)), 1),
        "PLAN_FEATURES": len(checks),
        "PLAN_PARALLEL": int(any(kernel.parallel for kernel in plan.kernels)),
    }
    sizes_ = {
        "PLAN_ARENA_BYTES": plan.arena_bytes,
        "PLAN_SCRATCH_BYTES": plan.scratch_bytes,
        "PLAN_STAGING_BYTES": sum(align_up(port.size) for port in ports),
    }
    lines = [f"#define TVMOPT_NAME {name}"]
    lines += [f"#define {key} {value}" for key, value in numbers.items()]
    lines += [f"#define {key} ((size_t){value}u)" for key, value in sizes_.items()]
    return "\n".join(lines) + "\n"


def kernels(symbols: Sequence[str | None]) -> str:
    """Return kernels.h: the functions that steps call; None is the executor's own copy."""
    entries = [f"__tvm_ffi_{symbol}" if symbol else "copy_kernel" for symbol in symbols]
    hidden = '__attribute__((visibility("hidden")))'
    lines = [
        f"{hidden} int {entry}(void *, const ffi_any *, int32_t, ffi_any *);\n"
        for entry, symbol in sorted({*zip(entries, symbols, strict=True)}, key=lambda e: e[0])
        if symbol
    ]
    return "".join(lines) + _table("kernel_fn plan_kernels", entries)


def peak(symbol: str, floats: int, flops: int) -> str:
    """Return the part of kernels.h that is for peak.c: a kernel, its floats and its work."""
    hidden = '__attribute__((visibility("hidden")))'
    return (
        f"{hidden} int __tvm_ffi_{symbol}(void *, const ffi_any *, int32_t, ffi_any *);\n"
        f"#define PEAK_KERNEL __tvm_ffi_{symbol}\n"
        f"#define PEAK_FLOATS {floats}\n"
        f"#define PEAK_FLOPS {flops}\n"
    )


def _signature(plan: Plan) -> str:
    def lines(role: str, ports: Sequence[Port]) -> Iterable[str]:
        for i, port in enumerate(ports):
            shape = "x".join(map(str, port.shape)) or "scalar"
            # A name is the model's and may hold anything, the end of a comment for one.
            name = _string(port.name).replace("*/", "*\\057")
            yield f" *   {role} {i}: {name} {port.dtype} {shape}, {port.size} bytes"

    return "\n".join([*lines("input", plan.inputs), *lines("output", plan.outputs)])


def header(plan: Plan, name: str) -> str:
    """Return model.h, the artefact's public interface."""
    text = (_C / "model.h.in").read_text()
    return text.replace("@SIGNATURE@", _signature(plan)).replace("@NAME@", name)
