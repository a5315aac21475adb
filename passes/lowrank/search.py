"""Choose by which method, and to which rank, a layer is factorized.

The rank is the least at an error or an energy, the largest at a time, or a share of the full one;
then it is raised to a multiple of 4, 8 or 16, the widths of registers and of blocks of outputs,
where that takes almost no time. Of several methods, the one predicted to be fastest is taken; where
the rank is chosen by time, the one of the least error.

Source: none; derived here. That factors of rank r pay where r < o k / (o + k) is only the theory:
times are those of the target's cost model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tvmopt.passes.lowrank.factors import Shape
from tvmopt.passes.lowrank.fit import Line
from tvmopt.passes.lowrank.problem import Problem
from tvmopt.passes.lowrank.rank import rank_at
from tvmopt.passes.lowrank.separate_spatial import SpatialLine
from tvmopt.passes.lowrank.truncated_svd import SvdLine
from tvmopt.passes.lowrank.tucker import Channels, TuckerLine

Method = Literal["auto", "svd", "spatial", "tucker"]
RankBy = Literal["error", "energy", "speedup", "share"]

_WIDTHS = (16, 8, 4)
_FREE = 1.06  # of the time, that a multiple of a width may take
_GRID = 8  # numbers of inner inputs that are tried for Tucker's form


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How a rank is chosen.

    Attributes:
        by: What the amount is of.
        amount: The error, energy, speed-up or share.
    """

    by: RankBy
    amount: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choice:
    """Factors that could be made.

    Attributes:
        line: The method.
        rank: Its rank.
        cycles: What they are predicted to take.
    """

    line: Line
    rank: int
    cycles: float

    @property
    def weights(self) -> int:
        """How many weights the factors have."""
        return sum(math.prod(shape) for _, shape in self.line.shapes(self.rank))


def why_not(method: Method, kernel: tuple[int, int]) -> str:
    """Return why a method cannot take a layer of a kernel; empty if it can."""
    if method == "spatial" and min(kernel) == 1:
        return (
            f"its kernel is {kernel[0]}x{kernel[1]}, and spatial parts one that is wider both ways"
        )
    if method == "tucker" and max(kernel) == 1:
        return "its kernel is 1x1, and tucker is for wider ones"
    return ""


def choose(
    problem: Problem,
    method: Method,
    rule: Rule,
    base: float,
    cycles: Callable[[Sequence[Shape]], float],
) -> Choice | None:
    """Return the best factors of a layer; None if no rank does what the rule asks.

    Args:
        problem: The layer.
        method: One that can take its kernel.
        rule: How the rank is chosen.
        base: Cycles of the layer as it is.
        cycles: Returns those of factors of some shapes.
    """
    found = []
    for line in _lines(problem, method, rule):

        def spent(rank: int, line: Line = line) -> float:
            return cycles(line.shapes(rank))

        rank = _rank(line, rule, base, spent)
        if rank is not None:
            rank = _raised(rank, line.most, spent, most=base / _speedup(rule))
            found.append(Choice(line=line, rank=rank, cycles=spent(rank)))
    if rule.by == "speedup":
        return min(found, key=lambda one: one.line.error(one.rank), default=None)
    return min(found, key=lambda one: one.cycles, default=None)


def _lines(problem: Problem, method: Method, rule: Rule) -> Iterator[Line]:
    wide = max(problem.kernel) > 1
    if method in ("auto", "svd"):
        yield SvdLine(problem)
    if method in ("auto", "spatial") and min(problem.kernel) > 1:
        yield SpatialLine(problem)
    if method in ("auto", "tucker") and wide:
        channels = Channels(problem)
        for inner in _inner_ranks(channels, rule):
            yield TuckerLine(problem, channels, inner)


def _inner_ranks(channels: Channels, rule: Rule) -> list[int]:
    """Return the numbers of inner inputs to try for Tucker's form."""
    full = len(channels.values)
    if rule.by == "energy":
        return [rank_at(channels.values, rule.amount)]
    if rule.by == "share":
        return [_part(rule.amount, full)]
    width = min(_WIDTHS)
    steps = {-(-full * i // (_GRID * width)) * width for i in range(1, _GRID + 1)}
    return sorted({min(step, full) for step in steps})


def _rank(line: Line, rule: Rule, base: float, spent: Callable[[int], float]) -> int | None:
    """Return the rank that a rule asks for; None if there is none."""
    match rule.by:
        case "energy":
            return line.rank_at(rule.amount)
        case "share":
            return _part(rule.amount, line.most)
        case "error":
            return _first(range(1, line.most + 1), lambda rank: line.error(rank) <= rule.amount)
        case "speedup":
            width = 8  # between multiples of it, times go up and down
            ranks = [r for r in (1, 2, 4) if r < line.most]
            ranks += [*range(width, line.most, width), line.most]
            return _first(ranks[::-1], lambda rank: spent(rank) * rule.amount <= base)


def _first(ranks: Sequence[int], holds: Callable[[int], bool]) -> int | None:
    """Return the first of some ranks for which something holds, as it does for all after it."""
    low, high = 0, len(ranks)
    while low < high:
        middle = (low + high) // 2
        if holds(ranks[middle]):
            high = middle
        else:
            low = middle + 1
    return ranks[low] if low < len(ranks) else None


def _raised(rank: int, full: int, spent: Callable[[int], float], *, most: float) -> int:
    """Return a rank, or a multiple of a width not far above it that takes almost the same time."""
    limit = spent(rank) * _FREE
    for width in _WIDTHS:
        more = -(-rank // width) * width
        if rank < more <= full and spent(more) <= min(limit, max(most, spent(rank))):
            return more
    return rank


def _speedup(rule: Rule) -> float:
    """Return how many times faster factors must be; any at all where times do not choose."""
    return rule.amount if rule.by == "speedup" else 1.0


def _part(share: float, full: int) -> int:
    return max(1, round(share * full))
