"""What Linux says of the machine that this process runs on.

Every question may go without an answer: containers hide files, and other systems have none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")

# Linux's names of what an Arm CPU has, and LLVM's. Source: Linux, arch/arm64/kernel/cpuinfo.c, and
# LLVM's AArch64Features.td.
_ARM_NAMES = {
    "asimd": "neon",
    "asimdhp": "fullfp16",
    "asimdrdm": "rdm",
    "asimddp": "dotprod",
    "asimdfhm": "fp16fml",
    "fcma": "complxnum",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Caches:
    """Data caches as one core sees them, bytes; None where Linux does not say.

    Attributes:
        l1d: Level 1.
        l2: Level 2, the share of one core where several have one together.
        l3: Level 3, all of it; 0 if there is none.
    """

    l1d: int | None = None
    l2: int | None = None
    l3: int | None = None


def usable_cores() -> int:
    """Return how many cores this process may keep busy at once.

    Hardware threads of one core count once; an affinity mask and a container's quota are heeded.
    """
    allowed = _allowed_cpus()
    cores = {_core_of(cpu) for cpu in allowed}
    quota = _quota()
    return max(1, len(cores) if quota is None else min(len(cores), quota))


def caches() -> Caches:
    """Return the caches of the first CPU that this process may use."""
    cpu = min(_allowed_cpus())
    sizes: dict[int, int] = {}
    for folder in sorted((_CPUS / f"cpu{cpu}" / "cache").glob("index*")):
        level, kind, size = (_text(folder / name) for name in ("level", "type", "size"))
        if level.isdigit() and kind in ("Data", "Unified") and _bytes(size):
            sharers = _count(_text(folder / "shared_cpu_list")) if level == "2" else 1
            threads = _threads_of(cpu) if level == "2" else 1
            sizes[int(level)] = _bytes(size) // max(1, sharers // threads)
    if not sizes:
        return Caches()
    return Caches(l1d=sizes.get(1), l2=sizes.get(2), l3=sizes.get(3, 0))


def arm_features() -> frozenset[str]:
    """Return what /proc/cpuinfo says an Arm CPU has, by LLVM's names."""
    for line in _text(_CPUINFO).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Features":
            return frozenset(_ARM_NAMES[name] for name in value.split() if name in _ARM_NAMES)
    return frozenset()


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _core_of(cpu: int) -> tuple[str, ...]:
    """Return what tells the core of a hardware thread from others; the thread, if unknown."""
    topology = _CPUS / f"cpu{cpu}" / "topology"
    names = ("physical_package_id", "die_id", "core_id")
    core = tuple(_text(topology / name) for name in names)
    return core if core[-1] else (str(cpu),)


def _threads_of(cpu: int) -> int:
    return max(1, _count(_text(_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list")))


def _quota() -> int | None:
    """Return a container's limit on CPU time, in whole CPUs rounded up."""
    both = _text(_QUOTAS[0]).split() or [_text(_QUOTAS[1]), _text(_PERIOD)]
    if len(both) == 2 and both[0].isdigit() and both[1].isdigit() and int(both[1]):
        return max(1, -(-int(both[0]) // int(both[1])))
    return None


def _count(listing: str) -> int:
    """Return how many CPUs a list such as ``0-3,8`` names."""
    return sum(_span(part) for part in listing.split(",") if part)


def _span(part: str) -> int:
    first, _, last = part.partition("-")
    return int(last) - int(first) + 1 if last else 1


def _bytes(size: str) -> int:
    """Return the bytes that a size such as ``512K`` stands for; 0 if it is none."""
    units = {"K": 1024, "M": 1024**2, "G": 1024**3}
    number, unit = (size[:-1], units[size[-1]]) if size[-1:] in units else (size, 1)
    return int(number) * unit if number.isdigit() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
