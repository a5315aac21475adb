"""Transpose a square tile of words in registers.

Source: the recursive exchange of off-diagonal blocks, as in H. S. Warren, "Hacker's Delight", 2nd
ed. (2012), section 7-3, there for bits. The steps within four lanes are those of SSE's UNPCKLPD and
SHUFPS, which need one instruction a result where the exchange of single words needs two.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from tvmopt.kernels.vector import Expr, bind

_QUAD = 4


def transposed(rows: list[Expr]) -> list[Expr]:
    """Return the columns of a square tile.

    Args:
        rows: n vectors of n lanes, n a power of 2.
    """
    lanes, block = len(rows), len(rows) // 2
    while block and (block >= _QUAD or lanes < _QUAD):
        rows = _exchanged(rows, block)
        block //= 2
    if lanes < _QUAD:
        return rows
    return [column for at in range(0, lanes, _QUAD) for column in _quad(rows[at : at + _QUAD])]


def _exchanged(rows: list[Expr], block: int) -> list[Expr]:
    """Return rows whose odd blocks have changed places with the even ones ``block`` rows below."""
    lanes = len(rows)
    even = [i if i & block == 0 else lanes + i - block for i in range(lanes)]
    odd = [i + block if i & block == 0 else lanes + i for i in range(lanes)]
    new = list(rows)
    for i in range(lanes):
        if i & block == 0:
            new[i] = _shuffled(rows[i], rows[i + block], even)
            new[i + block] = _shuffled(rows[i], rows[i + block], odd)
    return new


def _quad(rows: list[Expr]) -> list[Expr]:
    """Return the columns of the tiles of four by four that lie side by side in four rows."""
    lanes = int(rows[0].ty.dtype.lanes)

    def both(a: Expr, b: Expr, places: Sequence[int]) -> Expr:
        """Return two lanes of each four of a, and the same two of b behind them."""
        first = [at + place for at in range(0, lanes, _QUAD) for place in (*places, *places)]
        return _shuffled(a, b, [p + lanes * (i % _QUAD >= 2) for i, p in enumerate(first)])

    columns = []
    for half in ((0, 1), (2, 3)):
        above, below = both(rows[0], rows[1], half), both(rows[2], rows[3], half)
        columns += [both(above, below, (0, 2)), both(above, below, (1, 3))]
    return columns


def _shuffled(a: Expr, b: Expr, lanes: list[int]) -> Expr:
    """Return those lanes of two vectors side by side."""
    return bind(tirx.Shuffle([a, b], [tirx.const(lane, "int32") for lane in lanes]))
