"""Measurements in processes: an answer, a crash, a hang."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.children import LONGEST, ChildError, call, one_line

MODULE = "tests.benchmarks.crashing"


def test_an_answer_comes_back_and_its_folder_goes() -> None:
    answer = call(MODULE, {"how": "answer", "number": 1}, 60)
    assert answer["number"] == 2
    assert not Path(answer["folder"]).exists()


@pytest.mark.parametrize(
    ("how", "reason"),
    [("raise", "exited 1: lines"), ("segfault", "killed by SIGSEGV"), ("exit", "exited 0")],
)
def test_a_crash_is_one_line(how: str, reason: str) -> None:
    with pytest.raises(ChildError) as caught:
        call(MODULE, {"how": how}, 60)
    assert str(caught.value) == reason


def test_a_hang_ends_with_all_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    start = time.monotonic()
    with pytest.raises(ChildError, match="took longer than 3 s"):
        call(MODULE, {"how": "hang", "note": str(note)}, 3)
    assert time.monotonic() - start < 30
    stat = Path(f"/proc/{note.read_text()}/stat")
    deadline = time.monotonic() + 10
    while _alive(stat):
        assert time.monotonic() < deadline, "the child of the child still runs"
        time.sleep(0.05)


def _alive(stat: Path) -> bool:
    """Return whether a process is there and no zombie that nobody has reaped yet."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_long_message_is_cut() -> None:
    text = one_line("a\n  b" + "c" * 1000)
    assert text.startswith("a bc")
    assert len(text) == LONGEST
