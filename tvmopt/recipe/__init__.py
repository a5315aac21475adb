"""Recipes: which passes compress a model, with which options, and which layers differ."""

from tvmopt.recipe.recipe import Recipe
from tvmopt.recipe.rules import LayerRule

__all__ = ["LayerRule", "Recipe"]
