"""Make arrays of document pages, turned: ``python prepare_pages.py ID OUT FOLDER...``.

Each FOLDER holds PDF files, plain or gzipped; the last one is for calibration, the others for
evaluation. Pages that are all but blank are left out: nobody could tell their orientation.

Writes, all images uint8 RGB of (n, 3, 224, 224), the middle of the page::

    image, labels                     four quarter turns of each page, clockwise; (n,) in 0..3
    calibration_image                 likewise, of another package
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pypdfium2
from PIL import Image

SIZE, SHORT_SIDE = 224, 256
PAGES_A_DOCUMENT = 260
CALIBRATION_PAGES = 64
LEAST_DEVIATION = 12.0  # of the gray values, in [0, 255]


def read_pages(folder: Path) -> Iterator[Image.Image]:
    """Yield the pages of a folder's documents at 72 dots an inch, without blank ones."""
    for path in sorted(folder.rglob("*.pdf*")):
        data = path.read_bytes()
        document = pypdfium2.PdfDocument(gzip.decompress(data) if path.suffix == ".gz" else data)
        for number in range(min(len(document), PAGES_A_DOCUMENT)):
            page = document[number].render(scale=1.0).to_pil().convert("RGB")
            if np.asarray(page.convert("L"), np.float32).std() >= LEAST_DEVIATION:
                yield page


def turns(page: Image.Image) -> list[np.ndarray]:
    """Return the middle of a page turned clockwise by 0, 90, 180 and 270 degrees."""
    return [_centre(page.rotate(-90 * quarter, expand=True)) for quarter in range(4)]


def _centre(page: Image.Image) -> np.ndarray:
    scale = SHORT_SIDE / min(page.size)
    size = (round(page.width * scale), round(page.height * scale))
    page = page.resize(size, Image.Resampling.BILINEAR)
    left, top = (page.width - SIZE) // 2, (page.height - SIZE) // 2
    part = page.crop((left, top, left + SIZE, top + SIZE))
    return np.ascontiguousarray(np.asarray(part).transpose(2, 0, 1))


def prepare(test: list[Path], calibration: Path) -> dict[str, np.ndarray]:
    """Return the arrays of all folders."""
    images = [view for folder in test for page in read_pages(folder) for view in turns(page)]
    pages = list(read_pages(calibration))[:CALIBRATION_PAGES]
    # One turn a page, each turn as often: more pages say more than more turns of one.
    others = [turns(page)[number % 4] for number, page in enumerate(pages)]
    return {
        "image": np.stack(images),
        "labels": np.tile(np.arange(4), len(images) // 4),
        "calibration_image": np.stack(others),
    }


if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[3:]]
    np.savez(sys.argv[2], **prepare(folders[:-1], folders[-1]))
