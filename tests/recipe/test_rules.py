"""Rules of recipes: which layers they choose, and what they say of them."""

from __future__ import annotations

import re

import pytest

from tvmopt.errors import OptionError
from tvmopt.layers import Layer
from tvmopt.recipe.rules import LayerChoice, LayerRule, check_matches, choice_for, keep_for

STEM = Layer(name="stem_conv", roles=frozenset({"conv", "first"}), weights=9)
DEPTH = Layer(name="block_1_depth", roles=frozenset({"depthwise"}), weights=9)
HEAD = Layer(name="head", roles=frozenset({"linear", "last"}), weights=9)


def chosen(rule: LayerRule) -> list[str]:
    return [layer.name for layer in (STEM, DEPTH, HEAD) if rule.chooses(layer)]


def test_layers_are_chosen_by_name_or_role_or_both() -> None:
    assert chosen(LayerRule(match=("*_*",), skip=True)) == ["stem_conv", "block_1_depth"]
    assert chosen(LayerRule(match=("block_[0-3]_*", "hea?"), skip=True)) == [
        "block_1_depth",
        "head",
    ]
    assert chosen(LayerRule(role=("first", "last"), skip=True)) == ["stem_conv", "head"]
    assert chosen(LayerRule(match=("*_*",), role=("conv",), skip=True)) == ["stem_conv"]
    assert chosen(LayerRule(match=("HEAD",), skip=True)) == []


def test_the_last_rule_counts_and_only_in_its_passes() -> None:
    rules = (
        LayerRule(match=("*",), weight_bits=4),
        LayerRule(role=("depthwise", "last"), weight_bits=8),
        LayerRule(match=("head",), passes=("quantize-static",), skip=True),
    )
    assert choice_for("quantize-static", STEM, rules) == LayerChoice(weight_bits=4)
    assert choice_for("quantize-static", DEPTH, rules) == LayerChoice(weight_bits=8)
    assert choice_for("quantize-weights", HEAD, rules) == LayerChoice(weight_bits=8)
    skipped = choice_for("quantize-static", HEAD, rules)
    assert skipped.skip == 'the recipe leaves it alone (match = "head")'
    assert skipped.weight_bits is None
    taken_back = (*rules, LayerRule(role=("last",), weight_bits=5))
    assert choice_for("quantize-static", HEAD, taken_back) == LayerChoice(weight_bits=5)


def test_a_rule_about_keeping_says_nothing_else() -> None:
    rules = (LayerRule(role=("last",), keep="all"), LayerRule(match=("head",), keep="smaller"))
    assert choice_for("any", HEAD, rules) == LayerChoice()
    assert keep_for(HEAD, rules, "faster") == "smaller"
    assert keep_for(STEM, rules, "faster") == "faster"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"skip": True}, "must have 'match' or 'role', which choose layers, got neither"),
        ({"match": ("a",)}, "must say what differs: 'skip', 'keep' or 'weight_bits', got none"),
        (
            {"match": ("a",), "skip": True, "weight_bits": 4},
            "must not both skip layers and set their 'weight_bits', got both",
        ),
        ({"match": ("a",), "weight_bits": 9}, "weight_bits must be from 2 to 8, got 9"),
    ],
)
def test_rules_that_mean_nothing_are_refused(given: dict, message: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        LayerRule(**given)


def test_a_pattern_that_fits_no_layer_is_refused_with_the_nearest_name() -> None:
    layers = (STEM, DEPTH, HEAD)
    check_matches((LayerRule(match=("stem*", "head"), skip=True),), layers, "recipe 'r'")
    check_matches((LayerRule(role=("conv",), skip=True),), (HEAD,), "recipe 'r'")
    expected = (
        "recipe 'r': 'match' must fit a layer, 'stem_con' fits none of 3; did you mean 'stem_conv'?"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(expected)}$"):
        check_matches((LayerRule(match=("head", "stem_con"), skip=True),), layers, "recipe 'r'")
    with pytest.raises(OptionError, match="fits none of 0; none is known"):
        check_matches((LayerRule(match=("*",), skip=True),), (), "recipe 'r'")
