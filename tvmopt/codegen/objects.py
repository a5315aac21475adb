"""Compile PrimFuncs to one object file.

TVM's classes are used here directly: building is codegen's own matter, and no pass does it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi
from tvm import tirx

from tvmopt.errors import UnsupportedError
from tvmopt.runtime.elf import ElfFile

# What backend.c offers to kernels; anything else must come from libc or libm.
_BACKEND = frozenset(
    {
        "__TVMBackendAllocWorkspace",
        "__TVMBackendFreeWorkspace",
        "__TVMBackendParallelLaunch",
        "TVMFFIErrorSetRaisedFromCStr",
        "TVMFFIErrorSetRaisedFromCStrParts",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbols:
    """The kernels of a module, each once.

    Attributes:
        names: The symbol of each function, in the order asked for; equal functions share one.
        functions: The distinct functions by symbol.
    """

    names: tuple[str, ...]
    functions: dict[str, tirx.PrimFunc]


def _plain(func: tirx.PrimFunc, *, aliased: bool) -> tirx.PrimFunc:
    """Return ``func`` with only the attributes that change its code."""
    for key in list(func.attrs.keys()) if func.attrs else []:
        if key.startswith("tvmopt.") or key in {"global_symbol", "op_pattern"}:
            func = func.without_attr(key)
    # An output over an input is undefined behaviour in code that was promised there is none.
    if aliased and func.attrs and "tirx.noalias" in func.attrs:
        func = func.without_attr("tirx.noalias")
    return func


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def name_kernels(
    mod: tvm.IRModule, functions: Sequence[str], aliased: frozenset[str], model: str
) -> Symbols:
    """Give each distinct PrimFunc a symbol that depends on the model's and the function's name.

    Args:
        mod: The lowered module.
        functions: Names of PrimFuncs, in the order of first use.
        aliased: Those that are called with an output over an input.
        model: The model's name; kernels of two models must not collide in one program.
    """
    groups: dict[int, list[str]] = {}
    found: dict[str, tirx.PrimFunc] = {}
    names: list[str] = []
    for function in functions:
        func = _plain(mod[function], aliased=function in aliased)
        group = groups.setdefault(tvm_ffi.structural_hash(func), [])
        symbol = next((s for s in group if tvm_ffi.structural_equal(found[s], func)), None)
        if symbol is None:
            symbol = base = f"{model}_kernel_{_identifier(function)}"
            for number in range(len(found) + 1):
                symbol = base if number == 0 else f"{base}__{number}"
                if symbol not in found:
                    break
            found[symbol] = func
            group.append(symbol)
        names.append(symbol)
    return Symbols(names=tuple(names), functions=found)


def build(symbols: Symbols, target: tvm.target.Target, path: Path) -> None:
    """Compile the functions and write them to ``path``, an object file.

    Raises:
        UnsupportedError: A kernel needs TVM's runtime library.
    """
    named = {s: f.with_attr("global_symbol", s) for s, f in sorted(symbols.functions.items())}
    # Shapes and types are fixed and the executor made the arguments, so checks of them are waste.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        tirx.build(tvm.IRModule(named), target=target).write_to_file(str(path), "o")
    _check(path)


def _check(path: Path) -> None:
    # TVM's slots are weak definitions: a slot that backend.c does not fill is a null call, and no
    # linker complains. So names count, whether the object defines them or not.
    with ElfFile(path) as elf:
        names = {symbol.name for symbol in elf.symbols() if symbol.is_global}
    foreign = sorted(name for name in names - _BACKEND if name.startswith(("TVM", "__TVM")))
    if foreign:
        raise UnsupportedError(
            f"kernels must do without TVM's runtime library, these need {', '.join(foreign)}"
        )
