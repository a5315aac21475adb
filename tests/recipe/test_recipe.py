"""Recipes: what comes with tvmopt, what a file may say, and every refusal."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from tvmopt import LayerRule, Recipe
from tvmopt.errors import OptionError
from tvmopt.passes.quantize.keep_sensitive import KeepSensitiveOptions
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamicOptions
from tvmopt.passes.quantize.quantize_static import QuantizeStaticOptions
from tvmopt.passes.quantize.quantize_weights import QuantizeWeightsOptions
from tvmopt.passes.quantize.repair_weights import RepairWeightsOptions

NAMES = (
    *("bf16", "fp16", "int8", "int8-dynamic", "sparse-int8"),
    *("w4", "w4-dynamic", "w4a8", "w5a8", "w8"),
)
STATIC = '[[pass]]\nname = "quantize-static"\n'


def read(folder: Path, text: str) -> Recipe:
    path = folder / "r.toml"
    path.write_text(text)
    return Recipe.load(path)


def test_the_recipes_that_come_with_tvmopt_are_listed_and_loaded() -> None:
    assert set(NAMES) <= set(Recipe.names())
    for name in Recipe.names():
        recipe = Recipe.named(name)
        assert recipe.name == name
        assert recipe.description
        assert Recipe.load(name) == recipe
        json.dumps(recipe.describe())


def test_the_default_recipe_is_static_with_repaired_weights() -> None:
    recipe = Recipe.named("int8")
    assert [type(options) for options in recipe.passes] == [
        QuantizeStaticOptions,
        RepairWeightsOptions,
        KeepSensitiveOptions,
    ]
    repair, keep = recipe.passes[1:]
    assert keep.widen
    assert (repair.method, repair.asymmetric) == ("gptq", True)
    assert recipe.auto_bits == ("quantize-static",)
    assert recipe.for_bits(7).passes[0].weight_bits == 7
    assert recipe.for_bits(7).auto_bits == ()
    assert recipe.learns_from == ("quantize-static", "repair-weights", "keep-sensitive")
    assert Recipe.named("int8-dynamic").learns_from == ()


def test_a_file_says_passes_in_order_and_rules_for_layers(tmp_path: Path) -> None:
    text = """
        description = "mixed"
        keep = "all"
        min_samples = 4

        [[pass]]
        name = "quantize-static"
        weight_bits = 4
        activation_range = "percentile"
        percentile = 99.9
        layers = ["stage*", "head"]

        [[pass]]
        name = "quantize-weights"
        group_size = "none"

        [[layer]]
        role = ["first", "depthwise"]
        weight_bits = 8

        [[layer]]
        match = "head"
        passes = "quantize-static"
        skip = true
    """
    assert read(tmp_path, text) == Recipe(
        passes=(
            QuantizeStaticOptions(
                weight_bits=4,
                activation_range="percentile",
                percentile=99.9,
                layers=("stage*", "head"),
            ),
            QuantizeWeightsOptions(group_size=None),
        ),
        layers=(
            LayerRule(role=("first", "depthwise"), weight_bits=8),
            LayerRule(match=("head",), passes=("quantize-static",), skip=True),
        ),
        keep="all",
        min_samples=4,
        name="r",
        description="mixed",
    )


def test_a_recipe_is_put_together_in_python(tmp_path: Path) -> None:
    recipe = Recipe(passes=(QuantizeDynamicOptions(weight_bits=7),))
    text = '[[pass]]\nname = "quantize-dynamic"\nweight_bits = 7'
    assert read(tmp_path, text) == dataclasses.replace(recipe, name="r")


def test_the_digest_is_of_what_a_recipe_does(tmp_path: Path) -> None:
    first = read(tmp_path, STATIC).sha256()
    assert (
        read(tmp_path, f"# a remark\ndescription = 'x'\n{STATIC}weight_bits = 8").sha256() == first
    )
    assert read(tmp_path, f"{STATIC}weight_bits = 7").sha256() != first
    assert read(tmp_path, f"keep = 'all'\n{STATIC}").sha256() != first
    rule = f"{STATIC}[[layer]]\nmatch = 'a'\nskip = true"
    assert read(tmp_path, rule).sha256() != first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a recipe must have at least one pass, got none"),
        (f"kep = 'all'\n{STATIC}", "unknown key 'kep'; did you mean 'keep'?"),
        (
            f"keep = 'fast'\n{STATIC}",
            "'keep' must be one of 'faster', 'smaller', 'all', got 'fast'; did you mean 'faster'?",
        ),
        (f"min_samples = 0\n{STATIC}", "min_samples must be at least 1, got 0"),
        ("[pass]\nname = 'quantize-static'", "'pass' must be tables [[pass]], got {'name'"),
        ("[[pass]]\nbits = 4", "[[pass]] 1 must have the key 'name'"),
        (
            "[[pass]]\nname = 'quantise-static'",
            "[[pass]] 1: unknown pass 'quantise-static'; did you mean 'quantize-static'?",
        ),
        (
            f"{STATIC}weigth_bits = 4",
            "[[pass]] 1 (quantize-static): unknown key 'weigth_bits'; did you mean 'weight_bits'?",
        ),
        (f"{STATIC}rules = 4", "[[pass]] 1 (quantize-static): unknown key 'rules'"),
        (
            f"{STATIC}weight_bits = 9",
            "[[pass]] 1 (quantize-static): weight_bits must be from 2 to 8, got 9",
        ),
        (
            f"{STATIC}weight_bits = 'all'",
            "[[pass]] 1 (quantize-static): 'weight_bits' must be a whole number, got 'all'",
        ),
        (
            f"{STATIC}activation_range = 'mean'",
            "'activation_range' must be one of 'minmax', 'moving_average', 'percentile'",
        ),
        (
            f"[[pass]]\nname = 'repair-weights'\n{STATIC}",
            "pass 'quantize-static' must come before 'repair-weights', got it after",
        ),
        (
            "[[pass]]\nname = 'repair-weights'",
            "pass 'repair-weights' must come after one that quantizes, got none",
        ),
        (f"{STATIC}[[layer]]\nskip = true", "[[layer]] 1: must have 'match' or 'role'"),
        (
            f"{STATIC}[[layer]]\nrole = 'frist'\nskip = true",
            "[[layer]] 1: 'role' must be one of 'first', 'last', 'conv', 'depthwise', 'linear', "
            "got 'frist'; did you mean 'first'?",
        ),
        (
            f"{STATIC}[[layer]]\nmatch = 'a'\npasses = 'static'\nskip = true",
            "[[layer]] 1: 'passes' must be passes of this recipe, got 'static'; did you mean "
            "'quantize-static'?",
        ),
        (
            f"{STATIC}[[layer]]\nmatch = 'a'\nbits = 4",
            "[[layer]] 1: unknown key 'bits'; did you mean 'weight_bits'?",
        ),
        (
            f"{STATIC}[[pass]]\nname = 'repair-weights'\n"
            "[[layer]]\nmatch = 'a'\npasses = 'repair-weights'\nweight_bits = 4",
            "[[layer]] 1: 'weight_bits' must be for a pass that has bits, got 'repair-weights'",
        ),
        ("[[pass]\nname = 'a'", "must be a recipe in TOML: Expected"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(tmp_path, text)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path}/r.toml: ")
    assert message in told
    assert "\n" not in told


def test_the_line_of_a_syntax_error_is_told(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"r\.toml: must be a recipe in TOML: .*line 3"):
        read(tmp_path, f"{STATIC}weight_bits = = 4")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no\.toml: must be a readable recipe: No such file"):
        Recipe.load(tmp_path / "no.toml")
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match=r"odd\.toml: must be a recipe in TOML, which is UTF-8"):
        Recipe.load(tmp_path / "odd.toml")


def test_an_unknown_name_comes_with_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"one of 'bf16', .*, got 'int'; did you mean 'int8'"):
        Recipe.load("int")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"passes": ()}, "a recipe must have at least one pass, got none"),
        ({"passes": (4,)}, "passes must be options of passes (EqualizeLayersOptions, "),
        (
            {"passes": (QuantizeStaticOptions(),), "auto_bits": ("repair-weights",)},
            "auto_bits must name passes that have bits, got 'repair-weights'",
        ),
        (
            {
                "passes": (QuantizeStaticOptions(),),
                "layers": (LayerRule(match=("a",), passes=("b",), skip=True),),
            },
            "rule match = \"a\": 'passes' must be passes of this recipe, got 'b'; known are",
        ),
    ],
)
def test_recipes_of_python_are_checked_too(given: dict, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        Recipe(**given)
