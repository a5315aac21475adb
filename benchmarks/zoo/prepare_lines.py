"""Render lines of text: ``python prepare_lines.py ID OUT TEXTS FONTS...``.

TEXTS is a folder with two tables of Orange (``.tab``), the first in the order of their names for
evaluation, the second for calibration; FONTS are folders of TrueType fonts. A line is dark on
light or light on dark, slightly slanted in brightness, blurred and noisy, as a scan would be; what
is right of it is gray, as PP-OCR fills up lines that are shorter than its input.

Writes, all images uint8 RGB of (n, 3, 48, 320)::

    image, text                  what is written on each, (n,) unicode
    calibration_image            other text
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SEED = 0
TEST_LINES, CALIBRATION_LINES = 300, 64
HEIGHT, WIDTH, MARGIN = 48, 320, 8
FILL = 128  # the recogniser's zero, but for half a step
WORD = re.compile(r"[!-~]+")  # printable ASCII, which all fonts and the recogniser have
HEADER_ROWS = 3  # names, types, roles


def read_words(table: Path) -> list[str]:
    """Return the words of the longest column of a table, in order."""
    csv.field_size_limit(sys.maxsize)
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[HEADER_ROWS:]
    return [word for row in rows if row for word in WORD.findall(max(row, key=len))]


def take_line(words: Sequence[str], start: int, font: ImageFont.FreeTypeFont) -> str:
    """Return as many words from ``start`` on as fit, at least one."""
    line = words[start]
    for word in words[start + 1 :]:
        if font.getlength(f"{line} {word}") > WIDTH - 2 * MARGIN:
            return line
        line = f"{line} {word}"
    return line


def render(line: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> np.ndarray:
    """Return a picture of a line, (3, HEIGHT, WIDTH) uint8."""
    dark, light = rng.integers(0, 90, 3), rng.integers(170, 256, 3)
    ink, paper = (light, dark) if rng.random() < 0.2 else (dark, light)
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    shift = float(rng.uniform(-2, 2))
    draw = ImageDraw.Draw(mask)
    draw.text((MARGIN, HEIGHT / 2 + shift), line, fill=255, font=font, anchor="lm")
    mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, 0.8))))
    share = np.asarray(mask, np.float64)[..., None] / 255
    pixels = paper * (1 - share) + ink * share
    pixels += np.linspace(-1, 1, WIDTH)[None, :, None] * rng.uniform(-15, 15)
    pixels += rng.normal(0, rng.uniform(2, 8), pixels.shape)
    pixels[:, round(font.getlength(line)) + 2 * MARGIN :] = FILL
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).transpose(2, 0, 1)


def render_lines(
    words: Sequence[str], fonts: Sequence[Path], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``count`` pictures and what they say; every line has a font and a size of its own."""
    images, texts = [], []
    while len(images) < count:
        path = fonts[int(rng.integers(len(fonts)))]
        font = ImageFont.truetype(str(path), int(rng.integers(20, 33)))
        line = take_line(words, int(rng.integers(len(words) - 40)), font)
        if font.getlength(line) <= WIDTH - 2 * MARGIN:  # a single word may be too long
            images.append(render(line, font, rng))
            texts.append(line)
    return np.stack(images), np.array(texts)


def prepare(texts: Path, fonts: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return the arrays."""
    test, calibration = sorted(texts.rglob("*.tab"))
    faces = sorted(path for folder in fonts for path in folder.rglob("*.ttf"))
    rng = np.random.default_rng(SEED)
    image, text = render_lines(read_words(test), faces, TEST_LINES, rng)
    others, _ = render_lines(read_words(calibration), faces, CALIBRATION_LINES, rng)
    return {"image": image, "text": text, "calibration_image": others}


if __name__ == "__main__":
    np.savez(sys.argv[2], **prepare(Path(sys.argv[3]), [Path(name) for name in sys.argv[4:]]))
