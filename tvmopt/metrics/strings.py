"""Read what a text recogniser wrote, and compare it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def read_ctc(scores: np.ndarray, characters: Sequence[str]) -> list[str]:
    """Return the likeliest string of each sample, symbol by symbol.

    Repeated symbols count once and blanks not at all: the best-path decoding of A. Graves,
    S. Fernandez, F. Gomez and J. Schmidhuber, "Connectionist temporal classification", ICML 2006,
    section 3.2.

    Args:
        scores: (n, steps, 1 + characters), any scale; symbol 0 is the blank.
        characters: What the other symbols write, in order.
    """
    best = scores.argmax(axis=2)
    kept = best != 0
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    return [
        "".join(characters[i - 1] for i in row[keep]) for row, keep in zip(best, kept, strict=True)
    ]


def same_string(strings: Sequence[str], reference: Sequence[str]) -> np.ndarray:
    """Return which strings are equal but for spaces at either end, (n,) bool."""
    pairs = zip(strings, reference, strict=True)
    return np.array([ours.strip() == theirs.strip() for ours, theirs in pairs], bool)
