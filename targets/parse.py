"""From what a user writes after ``-t`` to a target."""

from __future__ import annotations

import difflib
from dataclasses import replace

from tvmopt.errors import TargetError
from tvmopt.targets import features
from tvmopt.targets.catalog import get
from tvmopt.targets.description import CpuTarget
from tvmopt.targets.native import detect

_NATIVE = "native"


def resolve(text: str) -> CpuTarget:
    """Return the target that ``text`` describes.

    Args:
        text: ``native`` or a catalogue name, then any of ``+feature``, ``-feature`` (as LLVM spells
            them) and ``cores=N``, joined by commas: ``zen4,-avx512f,cores=2``.

    Raises:
        TargetError: The name or a feature is unknown, parts contradict each other or the machine,
            or the text has another form.
    """
    name, *parts = [part.strip() for part in text.split(",")]
    target = detect() if name == _NATIVE else get(name, besides=(_NATIVE,))
    changes = tuple(part for part in parts if part[:1] in ("+", "-"))
    for part in parts:
        if part not in changes:
            target = replace(target, cores=_cores(part, text))
    if changes:
        target = _with_features(target, changes)
    return replace(target, name=",".join([target.name, *parts]))


def _cores(part: str, text: str) -> int:
    key, _, value = part.partition("=")
    if key != "cores":
        raise TargetError(
            "what follows a target's name must be +feature, -feature or cores=N, "
            f"got {part!r} in {text!r}"
        )
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 1024):
        raise TargetError(f"cores must be a number from 1 to 1024, got {value!r}")
    return int(value)


def _with_features(target: CpuTarget, changes: tuple[str, ...]) -> CpuTarget:
    for change in changes:
        _check_known(change, target)
    _check_signs(changes)
    # What is added comes first: LLVM adds with a feature all that it needs.
    ordered = tuple(sorted(changes, key=lambda change: change[0] != "+"))
    asked = {change[1:] for change in changes}
    kept = tuple(feature for feature in target.features if feature[1:] not in asked)
    combined = (*kept, *ordered)
    present = features.cpu_features(target.triple, target.cpu, combined)
    _check_effect(changes, present, target)
    bits, registers = features.registers(target.triple, present)
    return replace(
        target,
        features=combined,
        required=features.required_features(target.triple, present),
        vector_bits=bits,
        vector_registers=registers,
    )


def _check_known(change: str, target: CpuTarget) -> None:
    known = features.known_features(target.triple)
    if change[1:] not in known:
        near = difflib.get_close_matches(change[1:], known)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise TargetError(
            f"a feature must be one that LLVM knows for {target.triple!r}, got {change!r}{hint}"
        )


def _check_signs(changes: tuple[str, ...]) -> None:
    names = [change[1:] for change in changes]
    for name in names:
        if names.count(name) > 1:
            raise TargetError(
                f"a feature must be named once, got {name!r} {names.count(name)} times"
            )


def _check_effect(changes: tuple[str, ...], present: frozenset[str], target: CpuTarget) -> None:
    for change in changes:
        if (change[0] == "+") != (change[1:] in present):
            others = ", ".join(other for other in changes if other is not change)
            raise TargetError(
                "features must not contradict each other or the CPU, "
                f"got {change!r} with {others or target.cpu!r}"
            )
