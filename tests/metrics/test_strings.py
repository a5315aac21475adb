"""Reading and comparing strings."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.metrics.strings import read_ctc, same_string

CHARACTERS = "abc"


def one_hot(*rows: list[int]) -> np.ndarray:
    return np.eye(len(CHARACTERS) + 1)[np.array(rows)]


def test_repeats_count_once_and_blanks_part_them() -> None:
    scores = one_hot([1, 1, 0, 1, 2, 2], [0, 0, 0, 0, 0, 0], [3, 2, 1, 0, 0, 1])
    assert read_ctc(scores, CHARACTERS) == ["aab", "", "cbaa"]


@settings(derandomize=True, max_examples=50)
@given(st.text(CHARACTERS, max_size=8))
def test_reading_gives_back_what_was_written(text: str) -> None:
    # Every character for two steps and a blank after it, padded to one length.
    path = [symbol for c in text for symbol in (CHARACTERS.index(c) + 1,) * 2 + (0,)]
    assert read_ctc(one_hot(path + [0] * (24 - len(path))), CHARACTERS) == [text]


def test_spaces_at_the_ends_mean_nothing() -> None:
    assert same_string([" a b", "a b", "ab"], ["a b ", "a  b", "ac"]).tolist() == [
        True,
        False,
        False,
    ]
