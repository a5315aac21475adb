"""TOML tables to options, and each refusal."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Literal

import pytest

from tvmopt.errors import OptionError
from tvmopt.recipe.tables import convert, make, nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class Knobs:
    bits: int
    energy: float = 0.5
    method: Literal["mse", "minmax"] = "mse"
    width: Literal[4, 8] = 8
    group: int | None = None
    names: tuple[str, ...] = ()
    on: bool = False
    share: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise OptionError(f"bits must be in [2, 8], got {self.bits!r}")


def read(text: str) -> Knobs:
    return make(Knobs, tomllib.loads(text), "r.toml: [[pass]] 1 (knobs)")


def test_every_kind_of_value_is_taken() -> None:
    text = """
        bits = 4
        energy = 1
        method = "minmax"
        width = 4
        group = 32
        names = ["a", "b"]
        on = true
        share = 0.25
    """
    made = read(text)
    expected = Knobs(
        bits=4,
        energy=1.0,
        method="minmax",
        width=4,
        group=32,
        names=("a", "b"),
        on=True,
        share=0.25,
    )
    assert made == expected
    assert type(made.energy) is float


def test_none_is_a_text() -> None:
    assert read("bits = 4\ngroup = 'none'").group is None
    with pytest.raises(OptionError, match="'bits' must be a whole number, got 'none'"):
        read("bits = 'none'")


def test_what_is_left_out_is_the_default_and_one_item_needs_no_list() -> None:
    assert read("bits = 4\nnames = 'a'") == Knobs(bits=4, names=("a",))
    assert read("bits = 4\nshare = 'auto'") == Knobs(bits=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits = 4\nenegry = 1", "unknown key 'enegry'; did you mean 'energy'?"),
        ("bits = 4\nzzz = 1", "unknown key 'zzz'; known are 'bits', 'energy', 'method', 'width'"),
        ("energy = 1", "must have a key 'bits'"),
        ("bits = 9", "bits must be in [2, 8], got 9"),
        ("bits = 4.0", "'bits' must be a whole number, got 4.0"),
        ("bits = true", "'bits' must be a whole number, got true"),
        ("bits = '4'", "'bits' must be a whole number, got '4'"),
        ("bits = {a = 1}", "'bits' must be a whole number, got a table"),
        ("bits = 4\nenergy = nan", "'energy' must be a number, got nan"),
        ("bits = 4\nenergy = -inf", "'energy' must be a number, got -inf"),
        ("bits = 4\nenergy = false", "'energy' must be a number, got false"),
        ("bits = 4\non = 1", "'on' must be true or false, got 1"),
        (
            "bits = 4\nmethod = 'msee'",
            "'method' must be one of 'mse', 'minmax', got 'msee'; did you mean 'mse'?",
        ),
        ("bits = 4\nwidth = 5", "'width' must be one of 4, 8, got 5"),
        ("bits = 4\nwidth = true", "'width' must be one of 4, 8, got true"),
        ("bits = 4\nnames = [1]", "'names' must be a text, got 1"),
        ("bits = 4\ngroup = 'all'", "'group' must be a whole number, got 'all'"),
        ("bits = 4\nshare = 'all'", "'share' must be a number or one of 'auto', got 'all'"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_table_and_key(text: str, message: str) -> None:
    expected = re.escape(f"r.toml: [[pass]] 1 (knobs): {message}")
    with pytest.raises(OptionError, match=f"^{expected}") as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert nearest("INT8", ["w4", "int8", "int8-dynamic"]) == "did you mean 'int8'?"
    assert nearest("q", ["w4", "int8"]) == "known are 'w4', 'int8'"
    assert nearest("q", []) == "none is known"


def test_a_tuple_of_choices_is_converted_item_by_item() -> None:
    kind = tuple[Literal["first", "last"], ...]
    assert convert(kind, ["last", "first"], "role") == ("last", "first")
    with pytest.raises(OptionError, match="role must be one of 'first', 'last', got 'lst'; did"):
        convert(kind, ["first", "lst"], "role")
