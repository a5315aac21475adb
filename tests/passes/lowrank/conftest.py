"""Problems to factorize, small and random, with inputs as correlated as those of real layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tvmopt.passes.lowrank.problem import Problem

Make = Callable[..., Problem]


@pytest.fixture(scope="session")
def make_problem() -> Make:
    """Make one: ``make_problem(0, outputs=6, kernel=(3, 3), inputs=4)``; H = I if plain."""

    def make(
        seed: int,
        *,
        outputs: int = 6,
        kernel: tuple[int, int] = (1, 1),
        inputs: int = 8,
        plain: bool = False,
    ) -> Problem:
        rng = np.random.default_rng(seed)
        k = kernel[0] * kernel[1] * inputs
        wanted = rng.standard_normal((outputs, k))
        rows = rng.standard_normal((4 * k, k)) @ (rng.standard_normal((k, k)) * 0.9 ** np.arange(k))
        measured = np.eye(k) if plain else rows.T @ rows / len(rows)
        return Problem(
            wanted=wanted,
            metric=measured if plain else measured + 1e-3 * np.trace(measured) / k * np.eye(k),
            measured=measured,
            kernel=kernel,
            spread=float(np.sum((wanted @ measured) * wanted)),
        )

    return make
