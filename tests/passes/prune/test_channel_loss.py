"""Mirror of passes/prune/channel_loss.py and channel_budget.py: which channels go, how many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tvmopt.passes.prune.channel_budget import Choice, nearest_count, share_out
from tvmopt.passes.prune.channel_loss import Reader, descend, fit_without

OUTPUTS, UNITS, WIDTH = 5, 6, 2
INPUTS = UNITS * WIDTH


def _reader(seed: int, *, rows: int = 1, width: int = WIDTH) -> Reader:
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((40, INPUTS)) * rng.uniform(0.2, 2.0, INPUTS)
    inputs[:, :WIDTH] += inputs[:, WIDTH : 2 * WIDTH]  # what is left can make up for some
    weight = rng.standard_normal((OUTPUTS, INPUTS))
    hessian = inputs.T @ inputs / 40 + 0.01 * np.eye(INPUTS)
    energy = float(np.trace(weight @ hessian @ weight.T))
    places = np.arange(INPUTS).reshape(rows, -1, width)
    return Reader(weight=weight, hessian=hessian, energy=energy, places=places)


def _loss(reader: Reader, gone: np.ndarray) -> float:
    """What a reader loses when the weights that are left are fitted, by the definition."""
    fitted = fit_without(reader.weight, reader.hessian, gone)
    change = fitted - reader.weight
    return float(np.trace(change @ reader.hessian @ change.T)) / reader.energy


def test_a_fit_without_inputs_is_the_least_objective() -> None:
    reader, gone = _reader(1), np.array([3, 4, 9])
    fitted = fit_without(reader.weight, reader.hessian, gone)
    assert not fitted[:, gone].any()
    # Where the objective is least, its derivative is 0 along every weight that is left.
    slope = (fitted - reader.weight) @ reader.hessian
    assert np.abs(np.delete(slope, gone, axis=1)).max() < 1e-12


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_loss_told_is_that_of_the_fit(width: int) -> None:
    readers, units = [_reader(1, width=width), _reader(2, width=width)], INPUTS // width
    ladder = descend(readers, np.zeros((1, units)), (units - 1, 2), "obs")
    assert ladder.order.shape == (1, units - 2)
    for count, loss in zip(ladder.counts, ladder.losses, strict=True):
        kept = ladder.kept(count)[0]
        assert len(kept) == count
        gone = readers[0].places[0, np.setdiff1d(np.arange(units), kept)].reshape(-1)
        assert loss == pytest.approx(sum(_loss(reader, gone) for reader in readers), rel=1e-9)


@pytest.mark.parametrize("width", [1, 2])
def test_the_first_to_go_is_the_one_that_loses_least(width: int) -> None:
    reader, units = _reader(3, width=width), INPUTS // width
    losses = [_loss(reader, reader.places[0, unit]) for unit in range(units)]
    ladder = descend([reader], np.zeros((1, units)), (units - 1,), "obs")
    assert ladder.order.tolist() == [[int(np.argmin(losses))]]


def test_one_by_one_is_near_the_best_of_all_choices() -> None:
    reader = _reader(4)
    ladder = descend([reader], np.zeros((1, UNITS)), (5, 4, 3), "obs")
    every = [
        _loss(reader, reader.places[0, list(gone)].reshape(-1))
        for gone in itertools.combinations(range(UNITS), 3)
    ]
    assert ladder.losses[-1] <= np.quantile(every, 0.1)


def test_of_two_that_are_alike_one_stays() -> None:
    whole = _reader(7)
    gram = np.kron(np.ones((2, 2)), whole.hessian[:6, :6]) + 1e-6 * np.eye(INPUTS)
    twins = Reader(
        weight=whole.weight, hessian=gram, energy=1.0, places=np.arange(INPUTS).reshape(1, -1, 1)
    )
    ladder = descend([twins], np.zeros((1, INPUTS)), (6,), "obs")
    assert sorted(ladder.kept(6)[0] % 6) == [0, 1, 2, 3, 4, 5]
    assert ladder.losses[0] < 1e-4 * np.trace(twins.weight @ gram @ twins.weight.T)


def test_each_row_loses_as_many_units_of_its_own() -> None:
    reader = _reader(5, rows=2)
    ladder = descend([reader], np.zeros((2, 3)), (2, 1), "obs")
    assert ladder.kept(1).shape == (2, 1)
    assert sorted(ladder.order[0].tolist() + ladder.kept(1)[0].tolist()) == [0, 1, 2]
    gone = np.concatenate([reader.places[row, ladder.order[row]].reshape(-1) for row in (0, 1)])
    assert ladder.losses[-1] == pytest.approx(_loss(reader, gone), rel=1e-9)


def test_wanda_weighs_by_what_is_read_and_magnitude_by_what_produces() -> None:
    reader = _reader(6)
    energy = np.sum(reader.weight**2, axis=0) * np.diag(reader.hessian)
    worst = int(np.argmin(energy.reshape(UNITS, WIDTH).sum(1)))
    made = np.random.default_rng(1).uniform(size=(1, UNITS))
    assert descend([reader], made, (5,), "wanda").order.tolist() == [[worst]]
    ladder = descend([], made, (5, 4), "magnitude")
    assert ladder.order[0].tolist() == np.argsort(made[0])[:2].tolist()
    assert ladder.losses[-1] == pytest.approx(np.sort(made[0])[:2].sum())


CHEAP = Choice(size=16, width=1, counts=(12, 8), losses=(0.1, 0.2), gains=(0.05, 0.1))
DEAR = Choice(size=32, width=2, counts=(24, 16), losses=(0.3, 2.0), gains=(0.1, 0.2))


def _saved(counts: object) -> float:
    """The gains add up to 0.9 of what they are alone."""
    first, second = counts
    return 0.9 * (0.1 * (16 - first) / 8 + 0.2 * (32 - second) / 16)


def test_uniform_goes_to_the_nearest_count() -> None:
    assert share_out([CHEAP, DEAR], "uniform", 0.25, _saved) == [12, 24]
    assert nearest_count(CHEAP, 0.1) == 16
    assert nearest_count(CHEAP, 0.125) == 16  # as near to 12; rather more


def test_global_takes_the_cheapest_channels_first() -> None:
    # 80 channels. 16 of 64 go for 0.3; each of the other 16 costs more, and 4 of them are enough.
    assert share_out([CHEAP, DEAR], "global", 0.1, _saved) == [16, 24]
    assert share_out([CHEAP, DEAR], "global", 0.25, _saved) == [12, 24]


def test_time_goes_on_until_the_net_as_a_whole_is_faster() -> None:
    # 0.1 for a loss of 0.2 of one and 0.1 for 0.3 of the other; together 0.18, so one step more.
    assert share_out([CHEAP, DEAR], "time", 0.08, _saved) == [8, 32]
    assert share_out([CHEAP, DEAR], "time", 0.18, _saved) == [8, 24]
    assert share_out([CHEAP, DEAR], "time", 0.19, _saved) == [8, 16]


def test_what_cannot_be_reached_is_neared() -> None:
    assert share_out([CHEAP, DEAR], "time", 0.9, _saved) == [8, 16]


def test_steps_that_save_nothing_are_stepped_over() -> None:
    odd = Choice(size=16, width=1, counts=(14, 8), losses=(0.1, 0.3), gains=(-0.01, 0.2))
    assert share_out([odd], "time", 0.1, lambda counts: 0.2 * (counts[0] == 8)) == [8]
