"""docs/recipes.md names what there is, and its example is a recipe."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tvmopt import LayerRule, Recipe
from tvmopt.recipe.kinds import KINDS, PassKind

TEXT = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()


def section(name: str) -> str:
    """Return what follows a pass's name, up to the next one."""
    after = TEXT.split(f"**`{name}`**", maxsplit=1)[1]
    return re.split(r"^\*\*`|^### ", after, maxsplit=1, flags=re.MULTILINE)[0]


def keys(table: str) -> set[str]:
    """Return the first cells of a table's rows."""
    return {match[1] for match in re.finditer(r"^\| `([^`]+)` \|", table, re.MULTILINE)}


def spelled(value: object) -> str:
    """Return a value as TOML has it, without quotes around a text."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return str(value)


def test_the_example_is_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)[1])
    recipe = Recipe.load(path)
    assert len(recipe.passes) == len(recipe.layers) == 2


def test_every_built_in_recipe_is_listed() -> None:
    table = TEXT.split("## Recipes that come with tvmopt")[1].split("## ")[0]
    names = {name for row in re.findall(r"^\| (`.+?) \|", table, re.M) for name in row.split(", ")}
    assert {name.strip("`") for name in names} == set(Recipe.names())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_option_is_listed_with_its_default(kind: PassKind) -> None:
    text = section(kind.name)
    fields = [f for f in dataclasses.fields(kind.options) if f.name not in kind.hidden]
    assert keys(text) == {field.name for field in fields}
    for field in fields:
        row = re.search(rf"^\| `{field.name}` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
        default = row[1].strip("`")
        assert default.strip('"') == spelled(field.default)


def test_every_key_of_a_rule_is_listed() -> None:
    text = TEXT.split("### Layers")[1]
    assert keys(text) == {field.name for field in dataclasses.fields(LayerRule)}
