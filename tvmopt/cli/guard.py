"""Turn whatever ends a command into an exit code and at most one line on stderr."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from tvmopt.errors import TvmoptError

BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
BROKEN_PIPE = 128 + signal.SIGPIPE
DEBUG = "TVMOPT_DEBUG"


class _Interrupts:
    """Remembers a signal: a callback of a library may swallow the exception that it raises."""

    def __init__(self) -> None:
        self.code = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.code = 128 + number
        # SystemExit, as KeyboardInterrupt, unwinds: temporary files go, children end.
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(self.code)


@contextmanager
def _signals() -> Iterator[_Interrupts]:
    interrupts = _Interrupts()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup and background jobs of a shell ask for
            signal.signal(number, interrupts)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def guarded(command: Callable[[], int | None]) -> int:
    """Run ``command`` and return its exit code.

    Args:
        command: Returns None or 0 for success, or 1 if the result falls short. What it raises on
            purpose becomes one line and 2; anything else too, for a user can do nothing with our
            stack, but that line says that it is our fault and how to see more.
    """
    with _signals() as interrupts:
        try:
            code = command() or 0
            sys.stdout.flush()
        except BaseException as err:
            _debug()
            return interrupts.code or _code(err)
        return interrupts.code or int(code)


def _code(err: BaseException) -> int:
    if isinstance(err, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    # Typer and rich turn a broken pipe into an exit with 1, which says something else here.
    if isinstance(err, BrokenPipeError) or isinstance(err.__context__, BrokenPipeError):
        _discard_stdout()
        return BROKEN_PIPE
    if isinstance(err, SystemExit):
        return err.code if isinstance(err.code, int) else int(err.code is not None)
    say_error(_message(err))
    return BAD_INPUT


def _message(err: BaseException) -> str:
    if isinstance(err, TvmoptError):
        return str(err)
    if isinstance(err, typer.TyperException):
        return _usage(err.format_message())
    if isinstance(err, MemoryError):
        return "this machine has too little memory for that"
    if isinstance(err, OSError):
        where = f"{err.filename}: " if err.filename else ""
        if err.errno == errno.ENOSPC and not where:
            _discard_stdout()
        return f"{where}{err.strerror or err}"
    return (
        f"internal error, please report it: {type(err).__name__}: {err}; "
        f"{DEBUG}=1 shows where it happened"
    )


def _usage(text: str) -> str:
    """Return click's message in the form of ours."""
    text = text.replace(". Did you mean", "; did you mean").rstrip(".")
    text = text[:1].lower() + text[1:]
    return text if text.endswith("?") else f"{text}; see tvmopt --help"


def say_error(message: str) -> None:
    """Write ``message`` to stderr as one line."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")


def _debug() -> None:
    if os.environ.get(DEBUG, "0") not in {"", "0"}:
        traceback.print_exc()


def _discard_stdout() -> None:
    """Keep the interpreter from failing once more when it flushes stdout at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
