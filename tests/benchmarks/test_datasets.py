"""Data sets: pinned, taken out of packages, and made into arrays."""

from __future__ import annotations

import importlib
import struct
import zipfile
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from benchmarks.zoo import registries
from benchmarks.zoo.cache import HERE, FetchError, sha256
from benchmarks.zoo.catalogue import (
    Dataset,
    Package,
    Selection,
    UnknownModelError,
    load_catalogue,
    load_datasets,
)
from benchmarks.zoo.fetch import fetch_data
from benchmarks.zoo.qt_resources import read_resources

DATASETS = load_datasets()


@pytest.fixture
def prepare_images(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HERE))  # it is a script; its neighbours are its modules
    return importlib.import_module("prepare_images")


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_each_selection_is_pinned(dataset: Dataset) -> None:
    assert dataset.selections
    for selection in dataset.selections:
        assert len(selection.sha256) == 64
        assert selection.include
        if selection.package.registry != "debian":
            assert selection.package.version
            assert len(selection.package.sha256 or "") == 64
    assert all((HERE / source).is_file() for source in dataset.exporter[1].sources)


def test_exporters_of_the_same_requirements_share_an_environment() -> None:
    environments = {
        (exporter.requirements, exporter.environment)
        for _, exporter in [
            *(dataset.exporter for dataset in DATASETS.values()),
            *(model.exporter for model in load_catalogue().values() if model.exporter),
        ]
    }
    assert len(environments) == len({requirements for requirements, _ in environments})


def test_unknown_data_is_named() -> None:
    with pytest.raises(UnknownModelError, match=r"data must be one of .*, got 'no_such'"):
        fetch_data("no_such")


def test_the_digest_is_of_names_and_contents_in_any_order() -> None:
    files = {"b": b"2", "a": b"1"}
    listed = f"{sha256(b'1')}  a\n{sha256(b'2')}  b\n"
    assert registries.digest(files) == sha256(listed.encode())
    assert registries.digest({"a": b"1", "b": b"2"}) == registries.digest(files)
    assert registries.digest({"a": b"2", "b": b"1"}) != registries.digest(files)


def _selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str) -> Selection:
    monkeypatch.setattr(registries, "CACHE", tmp_path)
    (tmp_path / "archives").mkdir(exist_ok=True)
    wheel = tmp_path / "archives" / "pictures.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("p/deep/b.png", "p/a.png", "p/skip/c.png", "p/readme.txt"):
            archive.writestr(name, name)
    package = Package(
        name="pictures",
        registry="pypi",
        archive=wheel.name,
        version="1",
        sha256=sha256(wheel.read_bytes()),
    )
    return Selection(package=package, include=("p/*.png",), exclude=("p/skip/*",), sha256=digest)


def test_what_is_selected_is_unpacked_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {name: name.encode() for name in ("p/a.png", "p/deep/b.png")}
    selection = _selection(tmp_path, monkeypatch, registries.digest(wanted))
    folder = registries.unpack_all(selection)
    found = [path.read_text() for path in sorted(folder.rglob("*.png"))]
    assert found == list(wanted)
    assert registries.unpack_all(selection) == folder


def test_changed_contents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    selection = _selection(tmp_path, monkeypatch, "0" * 64)
    with pytest.raises(FetchError, match=r"list of p/\*\.png must be 0{64}, got .* \(2 files\)"):
        registries.unpack_all(selection)
    assert not (tmp_path / "selections").exists()


def _resource_file(contents: bytes, *, compressed: bool) -> bytes:
    """Write what rcc writes for one file ``a/b.txt``: a root, a folder and the file."""
    names, offsets = b"", []
    for name in ("a", "b.txt"):
        offsets.append(len(names))
        text = name.encode("utf-16-be")
        names += struct.pack(">HI", len(name), 0) + text
    if compressed:
        contents = struct.pack(">I", len(contents)) + zlib.compress(contents)
    data = struct.pack(">I", len(contents)) + contents
    stamp = bytes(8)
    tree = struct.pack(">IHII", 0, 2, 1, 1) + stamp
    tree += struct.pack(">IHII", offsets[0], 2, 1, 2) + stamp
    tree += struct.pack(">IHHHI", offsets[1], int(compressed), 0, 0, 0) + stamp
    start = 24  # behind the magic, the version, three offsets and the flags of version 3
    head = struct.pack(
        ">4sIIIII", b"qres", 3, start, start + len(tree), start + len(tree) + len(data), 0
    )
    return head + tree + data + names


@pytest.mark.parametrize("compressed", [False, True])
def test_resource_files_are_read(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "x.rcc"
    path.write_bytes(_resource_file(b"hello", compressed=compressed))
    assert read_resources(path) == {"/a/b.txt": b"hello"}


def test_another_file_is_no_resource_file(tmp_path: Path) -> None:
    path = tmp_path / "x.rcc"
    path.write_bytes(bytes(32))
    with pytest.raises(ValueError, match=r"x\.rcc must be a Qt resource file"):
        read_resources(path)


def _picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)


def test_no_motif_is_kept_twice(prepare_images: ModuleType) -> None:
    one, other = _picture(0), _picture(1)
    again = one.resize((640, 480))
    flat = Image.new("RGB", (320, 240), (200, 30, 30))
    assert prepare_images.choose(iter([one, flat, again, other])) == [one, other]


def test_views_are_of_one_size_and_crops_differ(prepare_images: ModuleType) -> None:
    views = prepare_images.views(_picture(0), np.random.default_rng(0))
    assert [view.shape for view in views] == [(3, 224, 224)] * (1 + prepare_images.CROPS)
    assert len({view.tobytes() for view in views}) == len(views)
    small = _picture(0).resize((160, 120))
    assert len(prepare_images.views(small, np.random.default_rng(0))) == 1
