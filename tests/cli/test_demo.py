"""The demo, from the embedded model to the page."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tvmopt import Recipe, runtime
from tvmopt.cli.demo import RECIPES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


class Outside(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe", "object"}:
            self.found.append(tag)
        self.found += [
            f"{tag} {value}"
            for name, value in attrs
            if name in {"src", "href", "xlink:href"}
            and value
            and not value.startswith(("#", "data:"))
        ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("int9",), "got 'int9'; did you mean 'int8'?"),
        (("int8", "int8"), "--recipe must name each recipe once, got int8, int8"),
    ],
)
def test_recipes_are_looked_up_before_anything_is_done(
    refused: Callable[..., str], tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    flags = [flag for name in names for flag in ("--recipe", name)]
    assert message in refused("demo", "-o", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_what_is_compressed_by_itself_exists() -> None:
    assert set(RECIPES) <= set(Recipe.names())


@pytest.mark.slow
def test_the_demo_measures_and_reports(tvmopt: Callable, folder: Path) -> None:
    recipes = ("--recipe", "int8", "--recipe", "sparse-int8")
    ended = tvmopt("demo", "--output", folder, "--seconds", 0.3, *recipes, "--json")
    assert ended.code == 0, ended.err
    demo = ended.document
    ours = demo["quality"][0]
    assert ours["engine"] == "tvmopt"
    assert ours["images"] == 10_000
    # The network is trained to better than 91 %; each engine computes the same one.
    assert 0.91 < ours["accuracy"] < 1
    for other in demo["quality"][1:]:
        assert other["agreement"] > 0.999
    for name in ("precision", "recall", "f1"):
        assert 0.9 < ours[name] < 1
    assert sum(map(sum, ours["confusion"])) == 10_000
    for engine in demo["timing"]["engines"]:
        latency = engine["latency_ms"]
        assert latency["least"] <= latency["p50"] <= latency["p90"] <= latency["p99"]
        assert engine["load_ms"] > 0
    _check_compressed(demo["compressed"], folder)
    assert demo["compiled"]["bytes"] == (folder / "model.so").stat().st_size
    assert demo["compiled"]["macs"] > 1e6
    _check_artefact(folder)
    _check_page((folder / "report.html").read_text(), demo)


def _check_compressed(compressed: list[dict], folder: Path) -> None:
    int8, sparse = compressed
    assert (int8["recipe"], int8["samples"], int8["images"]) == ("int8", 512, 10_000)
    # Some 20 of 10,000 images change sides; that is noise of 0.05 points.
    assert abs(int8["drop"]) < 0.003
    assert 0 < int8["standard_error"] < 0.002
    assert int8["agreement"] > 0.99
    assert int8["compressed_layers"] > int8["layers"] // 2
    assert int8["predicted_cycles"][1] < int8["predicted_cycles"][0]
    names = list(int8["speedup_over"])
    assert names[0] == "tvmopt float32"
    manifest = runtime.read_manifest(folder / int8["file"])
    assert manifest["recipe"]["name"] == "int8"
    assert int8["bytes"] == (folder / "model-int8.so").stat().st_size
    assert int8["weights_bytes"] == manifest["weights_bytes"]
    assert (folder / "model-int8.h").is_file()
    _check_sparse(sparse, int8, runtime.read_manifest(folder / sparse["file"]))


def _check_sparse(sparse: dict, int8: dict, manifest: dict) -> None:
    assert (sparse["recipe"], sparse["samples"]) == ("sparse-int8", 512)
    # Half of the weights are missing, and no label was looked at: some 100 of 10,000 images.
    assert sparse["drop"] < 0.02
    assert sparse["weights_bytes"] < int8["weights_bytes"]
    assert sparse["predicted_cycles"][1] < int8["predicted_cycles"][1]
    assert any("sparse" in layer["kernel"] for layer in manifest["layers"])
    shares = [layer["sparsity"][1] for layer in manifest["recipe"]["result"]]
    # Of the weights that are left, rounding to 7 bits makes one or two in a hundred zero.
    assert max(shares) == pytest.approx(0.5, abs=0.06)


def _check_artefact(folder: Path) -> None:
    with runtime.open(folder / "model.so") as net:
        assert [(port.name, port.dtype) for port in net.inputs] == [("image", "uint8")]
    assert "_create(" in (folder / "model.h").read_text()
    assert ctypes.CDLL(str(folder / "model.so"))


def _check_page(page: str, demo: dict) -> None:
    outside = Outside()
    outside.feed(page)
    assert outside.found == []
    assert page.count("<svg") == 4
    assert re.search(r"url\((?!#)", page) is None
    assert "@import" not in page
    for name in demo["classes"]:
        assert name in page
    for layer in demo["profile"]["layers"]:
        assert layer["layer"] in page
    assert f"{100 * demo['quality'][0]['accuracy']:.2f} %" in page
    assert f"{100 * demo['compressed'][0]['accuracy']:.2f} %" in page
    assert "prefers-color-scheme: dark" in page
