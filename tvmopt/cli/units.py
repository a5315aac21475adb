"""Numbers as people read them. kB is 1000 bytes."""

from __future__ import annotations

import math

_PREFIXES = ("", "k", "M", "G", "T")


def digits(value: float, significant: int = 3) -> str:
    """Return ``value`` with that many significant digits and no exponent: 0.0123, 1.23, 1230."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    places = significant - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    return f"{rounded:.{max(places, 0)}f}"


def scaled(value: float, unit: str = "") -> str:
    """Return ``value`` with a decimal prefix: ``526 kB``, ``7.38 M``, ``12``."""
    number, i = float(value), 0
    while abs(number) >= 999.5 and i < len(_PREFIXES) - 1:
        number, i = number / 1000, i + 1
    text = str(int(value)) if i == 0 and float(value).is_integer() else digits(number)
    return f"{text} {_PREFIXES[i]}{unit}".strip()


def bytes_(value: float) -> str:
    """Return a size: ``526 kB``."""
    return scaled(value, "B")


def percent(share: float, places: int = 2) -> str:
    """Return a share in [0, 1] as ``91.45 %``."""
    return f"{100 * share:.{places}f} %"


def shape(dims: object) -> str:
    """Return ``1x3x224x224``; open dimensions by name."""
    if dims is None:
        return "any rank"
    return "x".join(map(str, dims)) or "scalar"  # type: ignore[call-overload]
