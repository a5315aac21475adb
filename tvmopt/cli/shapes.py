"""Read ``--shape x=1x3x224x224``."""

from __future__ import annotations

from collections.abc import Sequence

from tvmopt.errors import OptionError


def parse_shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """Return the shapes by input name.

    Raises:
        OptionError: One is not of the form NAME=AxBxC with whole sizes, or a name comes twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        name, equals, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split("x"))
        except ValueError:
            shape = ()
        if not equals or not name or not shape or min(shape) < 1:
            raise OptionError(f"--shape must be such as x=1x3x224x224, got {text!r}")
        if name in shapes:
            raise OptionError(f"--shape must name each input once, got {name!r} twice")
        shapes[name] = shape
    return shapes
