"""Turn other people's errors into one line, and their names into identifiers."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

LONGEST = 200  # characters of somebody else's message worth repeating

# Their warnings say what our errors say again, or that a node cannot be folded.
_TALKATIVE = ("onnxscript", "onnx_ir")

_NOISE = re.compile(r"^(Traceback|File \"|\[|=+|Context:|Bad node spec|==>)")
_CHECK = re.compile(r"(\w*Error: )?Check failed:? ?(\(.*?\) is false)?:? ?")


def first_line(err: BaseException) -> str:
    """Return what an error's first cause says first, as one line of at most 200 characters.

    TVM prefixes its messages with a C++ call stack and the condition that failed, ONNX's checker
    with protobuf text; both are dropped.
    """
    while err.__cause__ is not None:
        err = err.__cause__
    text = ""
    for line in str(err).splitlines():
        part = _CHECK.sub("", line.strip(), count=1).strip()
        if part and not _NOISE.match(part) and not line.startswith("  "):
            text = f"{text} {part}".strip()
            if not text.endswith(":"):  # what follows a colon is the news
                break
    text = text or type(err).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def identifier(name: str, fallback: str = "value") -> str:
    """Return ``name`` as a C and Python identifier: other characters become single ``_``."""
    text = re.sub(r"[^0-9A-Za-z_]+", "_", name).strip("_")
    if not text:
        return fallback
    return f"_{text}" if text[0].isdigit() else text


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep the warnings of the ONNX libraries off stderr."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
