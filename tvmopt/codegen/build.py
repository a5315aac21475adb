"""From a lowered module to an artefact."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm

from tvmopt.codegen import emit, features, graph, link, manifest, objects
from tvmopt.codegen.artifact import Artifact
from tvmopt.codegen.plan import Plan
from tvmopt.codegen.planner import make_plan
from tvmopt.errors import ArtifactError, OptionError
from tvmopt.kernels import peak as kernels
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildMeta:
    """What the artefact says of itself that is not in the lowered module.

    Attributes:
        name: Prefix of the artefact's C functions, a C identifier.
        input_names: The model's own names of the inputs; None takes those of main's parameters.
        output_names: The model's own names of the outputs; None numbers them: output_0, ...
        model_sha256: Digest of the model file, in hexadecimal.
        recipe: The compression recipe that was applied.
        options: The options of the compilation, as JSON can hold them.

    Raises:
        OptionError: ``name`` is no C identifier.
    """

    name: str = "model"
    input_names: tuple[str, ...] | None = None
    output_names: tuple[str, ...] | None = None
    model_sha256: str | None = None
    recipe: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name):
            raise OptionError(
                "name must be a C identifier, letters, digits and underscores after a letter, "
                f"got {self.name!r}"
            )


def _names(kind: str, given: Sequence[str] | None, found: Sequence[str]) -> tuple[str, ...]:
    names = tuple(found if given is None else given)
    if len(names) != len(found) or len(set(names)) != len(names):
        raise OptionError(
            f"{kind}_names must be {len(found)} different names, got {', '.join(map(repr, names))}"
        )
    return names


def _plan(mod: tvm.IRModule, meta: BuildMeta) -> Plan:
    lowered = graph.read(mod)
    inputs = [name for name, _ in lowered.inputs]
    outputs = [f"output_{i}" for i in range(len(lowered.outputs))]
    return make_plan(
        lowered,
        _names("input", meta.input_names, inputs),
        _names("output", meta.output_names, outputs),
    )


def _write_sources(folder: Path, plan: Plan, target: CpuTarget, name: str) -> None:
    checks = [features.check(target.triple, feature) for feature in target.required]
    files = emit.source_files() | {
        "model.h": emit.header(plan, name).encode(),
        "sizes.h": emit.sizes(plan, name, checks).encode(),
        "plan.h": emit.tables(plan, checks).encode(),
    }
    for file, data in files.items():
        link.write(folder / file, data)


def _build_kernels(
    mod: tvm.IRModule, folder: Path, plan: Plan, target: CpuTarget, name: str
) -> list[str]:
    """Compile the kernels and write kernels.h; return the names of the objects."""
    functions = [kernel.function for kernel in plan.kernels if kernel.function is not None]
    symbols = objects.name_kernels(mod, functions, plan.aliased, name)
    by_function = dict(zip(functions, symbols.names, strict=True))
    table = [k.function and by_function[k.function] for k in plan.kernels]
    measure = f"{name}_peak_kernel"
    symbols.functions[measure] = kernels.peak(target, measure)
    text = emit.kernels(table) + emit.peak(
        measure, kernels.peak_floats(target), kernels.peak_flops(target)
    )
    link.write(folder / "kernels.h", text.encode())
    objects.build(symbols, target.to_tvm(), folder / "kernels.o")
    return ["kernels.o"]


def _link_twice(
    compiler: str, folder: Path, objects_: list[str], plan: Plan, description: dict[str, Any]
) -> Path:
    """Link once without weights to learn the least glibc, then for good with it in the manifest."""
    name = description["name"]
    link.write(folder / "weights.bin", b"")
    for final in (False, True):
        link.write(folder / "manifest.json", manifest.encode(description))
        data = link.compile_file(compiler, folder, "data.S")
        linked = link.link(compiler, folder, [*objects_, data], name, "linked.so")
        if not final:
            description["glibc"] = link.least_glibc(linked)
            link.write(folder / "weights.bin", plan.constants)
    return linked


def build(
    lowered: tvm.IRModule, target: CpuTarget, meta: BuildMeta, *, draft: bool = False
) -> Artifact:
    """Compile a lowered module into an artefact.

    The same module, target, meta and C compiler give the same bytes.

    Args:
        lowered: "main" of call_tir and reshape bindings, all shapes static, and its PrimFuncs.
        target: The machine that will run it.
        meta: Names, and what the manifest adds.
        draft: Whether it is for a few runs here and now: the executor, not the kernels, is compiled
            without optimization, which takes half the time.

    Raises:
        OptionError: ``meta`` contradicts the module.
        UnsupportedError: The module is not of that form.
        TargetError: The target needs a feature that artefacts cannot check.
        ToolchainError: There is no C compiler for the target, or it fails.
        ArtifactError: The temporary folder cannot be written.
    """
    compiler = link.find_compiler(target.triple)
    plan = _plan(lowered, meta)
    description = manifest.make(
        plan,
        target,
        name=meta.name,
        model_sha256=meta.model_sha256,
        recipe=meta.recipe,
        options=meta.options,
        compiler=link.compiler_version(compiler),
    )
    try:
        with tempfile.TemporaryDirectory(prefix="tvmopt-") as name:
            folder = Path(name)
            _write_sources(folder, plan, target, meta.name)
            objects_ = _build_kernels(lowered, folder, plan, target, meta.name)
            flags = link.baseline_flags(target.triple) + (link.DRAFT_FLAGS if draft else ())
            objects_.insert(0, link.compile_file(compiler, folder, "model.c", flags))
            linked = _link_twice(compiler, folder, objects_, plan, description)
            shared_object = linked.read_bytes()
    except OSError as err:
        raise ArtifactError(f"cannot build in a temporary folder: {err.strerror}") from err
    return Artifact(
        shared_object=shared_object,
        header=emit.header(plan, meta.name),
        manifest=description,
    )
