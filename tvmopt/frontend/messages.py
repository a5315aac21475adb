"""Turn other people's errors into one line, and their names into identifiers."""

from __future__ import annotations

import re

LONGEST = 200  # characters of somebody else's message worth repeating

_NOISE = re.compile(r"^(Traceback|File \"|\[|=+|Context:|Bad node spec|==>)")
_CHECK = re.compile(r"(\w*Error: )?Check failed:? ?(\(.*?\) is false)?:? ?")


def first_line(err: BaseException) -> str:
    """Return the first line of an error that tells a reader something, at most 200 characters.

    TVM prefixes its messages with a C++ call stack and the condition that failed, ONNX's checker
    with protobuf text; both are dropped.
    """
    for line in str(err).splitlines():
        text = _CHECK.sub("", line.strip(), count=1).strip()
        if text and not _NOISE.match(text) and not line.startswith("  "):
            return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return type(err).__name__


def identifier(name: str, fallback: str = "value") -> str:
    """Return ``name`` as a C and Python identifier: other characters become single ``_``."""
    text = re.sub(r"[^0-9A-Za-z_]+", "_", name).strip("_")
    if not text:
        return fallback
    return f"_{text}" if text[0].isdigit() else text
