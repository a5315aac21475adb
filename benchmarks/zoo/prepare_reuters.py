"""Make token ids of news stories: ``python prepare_reuters.py ID OUT MODEL STORIES``.

MODEL is a folder with MiniLM's archive, whose tokenizer is used; STORIES one with the test and the
training table of Reuters R8. Every third training story fits the probe; of the others some are for
calibration.

Writes, ids and masks int64 of (n, TOKENS), labels (n,) in 0..7::

    input_ids, attention_mask, labels                            the test stories
    probe_input_ids, probe_attention_mask, probe_labels          for the probe
    calibration_input_ids, calibration_attention_mask

Source: D. D. Lewis, "Reuters-21578 text categorization test collection", 1997; the eight largest
classes with their usual split, as Orange's text add-on has them.
"""

from __future__ import annotations

import csv
import sys
import zipfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

TOKENS = 64
PROBE_STRIDE = 3
CALIBRATION_STORIES = 256
HEADER_ROWS = 3  # names, types, roles


def read_stories(table: Path) -> tuple[list[str], list[str]]:
    """Return the texts and the names of their classes."""
    csv.field_size_limit(sys.maxsize)
    with table.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file, delimiter="\t")
    rows = [row for row in rows[HEADER_ROWS - 1 :] if len(row) == len(head)]
    return [row[1] for row in rows], [row[0] for row in rows]


def read_tokenizer(archive: Path) -> Tokenizer:
    """Return the tokenizer, set to cut and to pad to ``TOKENS``."""
    with zipfile.ZipFile(archive) as file:
        tokenizer = Tokenizer.from_str(file.read("tokenizer.json").decode())
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str], prefix: str) -> dict[str, np.ndarray]:
    """Return ids and mask of texts, each (n, TOKENS)."""
    codes = tokenizer.encode_batch(texts)
    return {
        f"{prefix}input_ids": np.array([code.ids for code in codes], np.int64),
        f"{prefix}attention_mask": np.array([code.attention_mask for code in codes], np.int64),
    }


def prepare(model: Path, stories: Path) -> dict[str, np.ndarray]:
    """Return the arrays."""
    tokenizer = read_tokenizer(next(model.rglob("model.zip")))
    test_path, train_path = sorted(stories.rglob("*.tab"))
    (test, test_names), (train, train_names) = read_stories(test_path), read_stories(train_path)
    classes = sorted(set(train_names))
    number = {name: i for i, name in enumerate(classes)}
    others = [text for i, text in enumerate(train) if i % PROBE_STRIDE]
    rows = np.random.default_rng(0).permutation(len(others))[:CALIBRATION_STORIES]
    return {
        **encode(tokenizer, test, ""),
        "labels": np.array([number[name] for name in test_names]),
        **encode(tokenizer, train[::PROBE_STRIDE], "probe_"),
        "probe_labels": np.array([number[name] for name in train_names[::PROBE_STRIDE]]),
        **encode(tokenizer, [others[i] for i in rows], "calibration_"),
    }


if __name__ == "__main__":
    np.savez(sys.argv[2], **prepare(Path(sys.argv[3]), Path(sys.argv[4])))
