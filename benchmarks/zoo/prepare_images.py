"""Make arrays of natural pictures: ``python prepare_images.py ID OUT FOLDER...``.

Each FOLDER holds the pictures of a package, as files or inside Qt resource files. A picture is kept
if it is large and colourful enough to be a photograph or a painting, and unlike every picture kept
before it, so that no two of them are one motif. Some pictures are for calibration, all others for
evaluation; a picture is shown once as a whole (its centre), and more often as random crops of an
enlarged copy.

Writes, all images uint8 RGB of (n, 3, 224, 224)::

    image, picture               for evaluation, and which picture each one shows, (n,)
    calibration_image            of other pictures, one view each
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from qt_resources import read_resources

SEED = 0
CALIBRATION_PICTURES = 96
SIZE, SHORT_SIDE, ENLARGED_SHORT_SIDE = 224, 256, 320
CROPS = 3
SMALLEST = 96  # pixels of the shorter side; a smaller picture would be mostly interpolation
SMALLEST_TO_CROP = 150
COLOURS = 100  # of 4 bits a channel; drawings have fewer
ALIKE = 0.95  # correlation of two thumbnails
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def read_pictures(folder: Path) -> Iterator[Image.Image]:
    """Yield the pictures of a folder in the order of their names, transparency on white."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".rcc":
            inside = sorted(read_resources(path).items())
            files = [data for name, data in inside if Path(name).suffix in SUFFIXES]
        else:
            files = [path.read_bytes()] if path.suffix.lower() in SUFFIXES else []
        for data in files:
            picture = Image.open(io.BytesIO(data))
            if min(picture.size) >= SMALLEST:
                yield _on_white(picture)


def _on_white(picture: Image.Image) -> Image.Image:
    rgba = picture.convert("RGBA")
    page = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    page.alpha_composite(rgba)
    return page.convert("RGB")


def count_colours(picture: Image.Image) -> int:
    """Return how many colours of 4 bits a channel a picture has, without near-white ones."""
    small = picture.copy()
    small.thumbnail((512, 512))
    pixels = np.asarray(small).reshape(-1, 3)
    pixels = pixels[pixels.min(axis=1) < 250] >> 4
    return len(np.unique(pixels.astype(np.int32) @ np.array([256, 16, 1])))


def thumbnail(picture: Image.Image) -> np.ndarray:
    """Return 16 x 16 gray values as a vector of mean 0 and length 1, or of zeros."""
    gray = np.asarray(picture.convert("L").resize((16, 16)), np.float64).ravel()
    gray -= gray.mean()
    length = np.linalg.norm(gray)
    return gray / length if length else gray


def choose(pictures: Iterator[Image.Image]) -> list[Image.Image]:
    """Return the pictures that are colourful and unlike all before them."""
    kept: list[Image.Image] = []
    thumbnails = np.zeros((0, 256))
    for picture in pictures:
        if count_colours(picture) < COLOURS:
            continue
        small = thumbnail(picture)
        if not len(kept) or np.max(thumbnails @ small) < ALIKE:
            kept.append(picture)
            thumbnails = np.vstack([thumbnails, small])
    return kept


def resize(picture: Image.Image, short_side: int) -> Image.Image:
    """Return the picture with a shorter side of so many pixels."""
    w, h = picture.size
    scale = short_side / min(w, h)
    return picture.resize((round(w * scale), round(h * scale)), Image.Resampling.BILINEAR)


def crop(picture: Image.Image, left: int, top: int) -> np.ndarray:
    """Return (3, SIZE, SIZE) uint8."""
    part = picture.crop((left, top, left + SIZE, top + SIZE))
    return np.ascontiguousarray(np.asarray(part).transpose(2, 0, 1))


def centre(picture: Image.Image) -> np.ndarray:
    """Return the middle of a picture, as classifiers are usually fed."""
    whole = resize(picture, SHORT_SIDE)
    return crop(whole, (whole.width - SIZE) // 2, (whole.height - SIZE) // 2)


def views(picture: Image.Image, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the centre and, of a picture that is large enough, random parts."""
    found = [centre(picture)]
    if min(picture.size) >= SMALLEST_TO_CROP:
        large = resize(picture, ENLARGED_SHORT_SIDE)
        for _ in range(CROPS):
            left = int(rng.integers(0, large.width - SIZE + 1))
            top = int(rng.integers(0, large.height - SIZE + 1))
            found.append(crop(large, left, top))
    return found


def prepare(folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return the arrays of all folders."""
    pictures = choose(picture for folder in folders for picture in read_pictures(folder))
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(pictures))
    calibration, evaluation = order[:CALIBRATION_PICTURES], sorted(order[CALIBRATION_PICTURES:])
    shown = [(number, view) for number in evaluation for view in views(pictures[number], rng)]
    return {
        "image": np.stack([view for _, view in shown]),
        "picture": np.array([number for number, _ in shown], np.int32),
        "calibration_image": np.stack([centre(pictures[number]) for number in calibration]),
    }


if __name__ == "__main__":
    np.savez(sys.argv[2], **prepare([Path(name) for name in sys.argv[3:]]))
