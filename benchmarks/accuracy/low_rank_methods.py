"""The ways to factorize layers that are compared: each form at each budget of error. Data only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.accuracy.methods import Method, Pass, recipe_text

# What the factors may add to a layer's outputs, in percent of their variance.
BUDGETS = (1, 2, 5, 10, 20)
FORMS = ("auto", "svd", "svd of weights", "spatial", "tucker")


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank:
    """One cell of the grid.

    Attributes:
        form: One of ``FORMS``; "svd of weights" looks at no sample's outputs but to find the rank.
        column: One of ``BUDGETS``.
    """

    form: str
    column: int

    @property
    def label(self) -> str:
        """What the cells of a line have in common."""
        return self.form

    @property
    def name(self) -> str:
        """The method's name."""
        return f"low rank, {self.form}, {self.column} % error"

    def method(self) -> Method:
        """Return what makes it; a layer whose factors would be slower stays as it is."""
        factorize: Pass = {
            "name": "factorize-layers",
            "method": self.form.split()[0],
            "whiten": self.form != "svd of weights",
            "rank_by": "error",
            "error": self.column / 100,
        }
        return Method(name=self.name, text=recipe_text([factorize], keep="faster"))


def cells(forms: Sequence[str], budgets: Sequence[int]) -> Iterator[LowRank]:
    """Yield the cells of a grid, the automatic form first."""
    for form in forms:
        for budget in budgets:
            yield LowRank(form=form, column=budget)
