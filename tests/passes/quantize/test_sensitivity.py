"""Which layers to leave in floats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.errors import DataError, OptionError
from tvmopt.passes.quantize.sensitivity import (
    KeptLayers,
    LayerEffect,
    keep_worst,
    output_distance,
    rank_layers,
)
from tvmopt.report import Report


def _ranked(count: int) -> tuple[LayerEffect, ...]:
    return tuple(LayerEffect(layer=f"l{i}", effect=float(count - i)) for i in range(count))


def test_layers_are_ranked_by_their_effect_with_one_call_each() -> None:
    effects = {"a": 0.1, "b": 0.5, "c": 0.1, "d": 0.0}
    asked: list[str] = []
    report = Report()

    def effect(name: str) -> float:
        asked.append(name)
        return effects[name]

    ranked = rank_layers(list(effects), effect, report)
    assert [one.layer for one in ranked] == ["b", "a", "c", "d"]
    assert asked == list(effects)
    assert report.decisions[0].site == "b"
    assert report.decisions[0].reason == "alone it moves the outputs by 0.5, place 1 of 4"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(count=st.integers(0, 60), needed=st.integers(0, 70))
def test_a_steady_drop_is_met_by_the_fewest_layers(count: int, needed: int) -> None:
    asked: list[int] = []

    def drop(kept: frozenset[str]) -> float:
        asked.append(len(kept))
        return max(0.0, needed - len(kept)) * 0.1

    got = keep_worst(_ranked(count), drop, 0.0, Report())
    assert len(set(asked)) == len(asked)
    # Doubling, then halving: each at most 1 + log2 steps, and the end.
    assert len(asked) <= 2 * np.log2(count + 1) + 3
    assert len(got.trials) == len(asked)
    if needed <= count:
        assert got.holds
        assert got.kept == {f"l{i}" for i in range(needed)}
    else:
        assert not got.holds
        assert len(got.kept) == count
    assert got.drop == drop(got.kept)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(drops=st.lists(st.floats(0, 1), min_size=2, max_size=30), most=st.floats(0, 1))
def test_whatever_the_drops_the_answer_is_honest(drops: list[float], most: float) -> None:
    report = Report()
    got: KeptLayers = keep_worst(
        _ranked(len(drops) - 1), lambda kept: drops[len(kept)], most, report
    )
    assert got.drop == drops[len(got.kept)]
    assert got.holds == (got.drop <= most)
    assert got.holds == any(trial.drop <= most for trial in got.trials)
    if not got.holds:
        assert got.drop == min(trial.drop for trial in got.trials)
        assert all("no choice holds" in decision.reason for decision in report.decisions)


def test_the_report_names_what_stays() -> None:
    report = Report()
    keep_worst(_ranked(4), lambda kept: 1.0 - 0.5 * len(kept), 0.25, report)
    assert [d.site for d in report.decisions] == ["l0", "l1"]
    reason = "it stays in floats: the drop of 0 then holds 0.25"
    assert {d.reason for d in report.decisions} == {reason}
    report = Report()
    keep_worst(_ranked(4), lambda _: 0.1, 0.25, report)
    assert report.decisions[0].reason == "none stays in floats: the drop of 0.1 then holds 0.25"


def test_the_distance_is_a_share_of_the_square_of_all_batches() -> None:
    wanted = [np.array([[3.0, 0.0]], "f4"), np.array([[0.0, 4.0]], "f4")]
    got = [np.array([[3.0, 1.0]], "f4"), np.array([[0.0, 2.0]], "f4")]
    assert output_distance(got, wanted) == (1.0 + 4.0) / 25.0
    assert output_distance(wanted, wanted) == 0.0


def test_bad_measures_are_refused_in_words() -> None:
    with pytest.raises(DataError, match="at least one batch, got 0 batches"):
        output_distance([], [])
    bad = [np.array([np.nan])]
    with pytest.raises(DataError, match=r"outputs must be finite .* squared error of nan"):
        output_distance(bad, [np.ones(1)])
    with pytest.raises(DataError, match="layer 'a': its effect must be a number, got nan"):
        rank_layers(["a"], lambda _: float("nan"), Report())
    with pytest.raises(OptionError, match="layers must be named once, got 'a' twice"):
        rank_layers(["a", "b", "a"], lambda _: 0.0, Report())
    with pytest.raises(DataError, match="drop must be a number, got inf with 0 layers kept"):
        keep_worst(_ranked(2), lambda _: float("inf"), 1.0, Report())
    with pytest.raises(OptionError, match="greatest drop must be a number, got nan"):
        keep_worst(_ranked(2), lambda _: 0.0, float("nan"), Report())
