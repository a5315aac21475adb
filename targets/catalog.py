"""Every target, by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tvmopt.errors import TargetError
from tvmopt.targets import arm, x86
from tvmopt.targets.description import CpuTarget

TARGETS: Mapping[str, CpuTarget] = MappingProxyType(
    {target.name: target for target in (*x86.TARGETS, *arm.TARGETS)}
)


def get(name: str, *, besides: Sequence[str] = ()) -> CpuTarget:
    """Return the target called ``name``.

    Args:
        name: A key of ``TARGETS``.
        besides: Names that the caller takes as well, for the message.

    Raises:
        TargetError: There is none; the message names the nearest ones.
    """
    if name not in TARGETS:
        known = sorted([*besides, *TARGETS])
        near = difflib.get_close_matches(name.lower(), known) or known
        raise TargetError(f"no target is called {name!r}; did you mean {' or '.join(near)}?")
    return TARGETS[name]
