"""What schedule_rest emits computes what NumPy does.

U = 2**-24 is the unit roundoff of float32. A sum of n terms in any order errs by at most
gamma(n - 1) = (n - 1) U / (1 - (n - 1) U) times the sum of the magnitudes: N. J. Higham, "Accuracy
and Stability of Numerical Algorithms", 2nd edition (2002), 4.2. The functions' bounds are those of
tvmopt.kernels.math.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tvm import relax

U = 2.0**-24
R = relax.op
few = settings(derandomize=True, max_examples=10, deadline=None)
shapes = hnp.array_shapes(min_dims=0, max_dims=5, min_side=1, max_side=9)


def _normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)


def _gamma(n: int) -> float:
    return n * U / (1 - n * U)


def _close(got: np.ndarray, wanted: np.ndarray, bound: np.ndarray | float) -> None:
    assert got.shape == wanted.shape
    assert (np.abs(got - wanted) <= bound).all(), np.abs(got - wanted).max()


@few
@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=5, max_side=9))
def test_broadcasts(rest: Any, both: hnp.BroadcastableShapes) -> None:
    x, y = (_normal(shape, seed) for seed, shape in enumerate(both.input_shapes))
    got = rest.run(lambda a, b: R.nn.relu(R.subtract(R.multiply(a, b), a)), x, y)
    # The product and the difference round once each, or together.
    magnitude = np.abs(x.astype(np.float64) * y) + np.abs(x)
    _close(got, np.maximum(x.astype(np.float64) * y - x, 0), 2 * U * magnitude)


@few
@given(shapes, st.sampled_from(["float16", "int8", "int32", "int64", "bool"]))
def test_other_types(rest: Any, shape: tuple[int, ...], dtype: str) -> None:
    x = np.asarray(np.random.default_rng(0).integers(0, 2, shape)).astype(dtype)
    got = rest.run(lambda a: R.astype(R.where(R.astype(a, "bool"), a, a), "float32"), x)
    np.testing.assert_array_equal(got, x.astype(np.float32))


FUNCTIONS = {
    # operator: (NumPy's, bound of the result given the argument and the exact result)
    "exp": (R.exp, np.exp, lambda _x, y: 4 * U * y),
    "log": (lambda a: R.log(R.exp(a)), lambda x: x, lambda x, _y: 4 * U + 6 * U * np.abs(x)),
    "tanh": (R.tanh, np.tanh, lambda _x, y: 5e-7 * np.abs(y)),
    "erf": (R.erf, scipy.special.erf, lambda _x, y: 5e-7 * np.abs(y)),
    "sigmoid": (R.sigmoid, scipy.special.expit, lambda _x, y: 6 * U * y),
    "silu": (R.nn.silu, lambda x: x * scipy.special.expit(x), lambda _x, y: 7 * U * np.abs(y)),
    "rsqrt": (lambda a: R.rsqrt(R.exp(a)), lambda x: np.exp(-x / 2), lambda _x, y: 6 * U * y),
    "square": (lambda a: R.power(a, relax.const(2.0)), np.square, lambda _x, y: U * y),
    "cube": (lambda a: R.power(a, relax.const(3.0)), lambda x: x**3, lambda _x, y: 2 * U * abs(y)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 40, 129)], ids=str)
def test_functions(rest: Any, name: str, shape: tuple[int, ...]) -> None:
    build, exact, bound = FUNCTIONS[name]
    x = _normal(shape)
    wanted = exact(x.astype(np.float64))
    _close(rest.run(build, x), wanted, bound(x.astype(np.float64), wanted))


def test_chains_of_functions_and_choices(rest: Any) -> None:
    def mish(x: relax.Expr) -> relax.Expr:
        return R.multiply(x, R.tanh(R.log(R.add(relax.const(1.0), R.exp(x)))))

    x = _normal((7, 33))
    wide = x.astype(np.float64)
    wanted = wide * np.tanh(np.log1p(np.exp(wide)))
    # Each of exp, the sum, log, tanh and the product errs by at most 5e-7 of its result, and no
    # step has a condition number above 2.
    _close(rest.run(mish, x), wanted, 5 * 2 * 5e-7 * np.maximum(np.abs(wanted), 1))


@few
@given(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=40), st.data())
def test_softmax_over_any_axis(rest: Any, shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = 10 * _normal(shape)
    wanted = scipy.special.softmax(x.astype(np.float64), axis)
    # x - max rounds once: |x - max| U of the exponential; then exp, the sum, the division, which is
    # a reciprocal and a product.
    spread = np.ptp(x, axis=axis, keepdims=True) * U
    bound = (2 * spread + 4 * U + _gamma(shape[axis] + 4)) * wanted
    _close(rest.run(lambda a: R.nn.softmax(a, axis), x), wanted, bound + 1e-38)


def test_softmax_of_masked_scores(rest: Any) -> None:
    x = _normal((3, 5, 19))
    x[:, :, 7:] = -np.inf
    x[0, 0] = -10000.0
    got = rest.run(lambda a: R.nn.softmax(a, -1), x)
    assert (got[1:, :, 7:] == 0).all()
    _close(got[0, 0], np.full(19, 1 / 19), 4 * U)


def test_log_softmax(rest: Any) -> None:
    x = _normal((5, 77))
    wanted = scipy.special.log_softmax(x.astype(np.float64), -1)
    # The sum's relative error is an absolute one of its logarithm; then two roundings.
    _close(rest.run(lambda a: R.nn.log_softmax(a, -1), x), wanted, _gamma(90) + 4 * U * 10)


@pytest.mark.parametrize("shape", [(6, 384), (2, 3, 37), (1, 8), (4, 129)], ids=str)
def test_layer_norm(rest: Any, shape: tuple[int, ...]) -> None:
    x, g, b = _normal(shape), _normal(shape[-1:], 1), _normal(shape[-1:], 2)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    # The mean errs by gamma(n) mean|x|; the variance, a sum of squares, by gamma(n + 3) of itself;
    # its root halves that, and four more operations round.
    n = shape[-1]
    slack = _gamma(n) * np.abs(wide).mean(-1, keepdims=True) / np.sqrt(wide.var(-1, keepdims=True))
    bound = (slack + np.abs(scaled) * _gamma(n + 12)) * np.abs(g) + 2 * U * np.abs(b)
    got = rest.run(lambda a, s, t: R.nn.layer_norm(a, s, t, [-1]), x, g, b)
    _close(got, scaled * g + b, bound)


REDUCTIONS = {"sum": (R.sum, np.sum), "max": (R.max, np.max), "min": (R.min, np.min)}


@few
@given(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=70), st.data())
def test_reductions_over_any_axes(rest: Any, shape: tuple[int, ...], data: st.DataObject) -> None:
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1).map(sorted))
    name, keep = data.draw(st.sampled_from(sorted(REDUCTIONS))), data.draw(st.booleans())
    build, exact = REDUCTIONS[name]
    x = _normal(shape)
    terms = int(np.prod([shape[axis] for axis in axes]))
    wanted = exact(x.astype(np.float64), axis=tuple(axes), keepdims=keep)
    magnitude = np.abs(x.astype(np.float64)).sum(tuple(axes), keepdims=keep)
    bound = _gamma(terms) * magnitude if name == "sum" else 0.0
    _close(rest.run(lambda a: build(a, list(axes), keep), x), wanted, bound)


def test_a_reduction_of_an_expression_and_what_follows_it(rest: Any) -> None:
    x = _normal((5, 33, 20))
    wanted = np.sqrt(np.square(x.astype(np.float64)).sum(1))
    got = rest.run(lambda a: R.sqrt(R.sum(R.multiply(a, a), [1])), x)
    _close(got, wanted, _gamma(35) * wanted)


@few
@given(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=40), st.data())
def test_argmax(rest: Any, shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = np.random.default_rng(0).integers(0, 5, shape).astype(np.float32)  # with ties
    np.testing.assert_array_equal(rest.run(lambda a: R.argmax(a, axis), x), x.argmax(axis))


@few
@given(hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=37), st.data())
def test_transposes(rest: Any, shape: tuple[int, ...], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    x = _normal(shape)
    got = rest.run(lambda a: R.permute_dims(a, list(order)), x)
    np.testing.assert_array_equal(got, x.transpose(order))


def test_a_transpose_between_reshapes(rest: Any) -> None:
    x = _normal((2, 6, 35))
    wanted = x.reshape(2, 6, 5, 7).transpose(0, 2, 1, 3).reshape(2, 5, 42)

    def build(a: relax.Expr) -> relax.Expr:
        return R.reshape(R.permute_dims(R.reshape(a, (2, 6, 5, 7)), [0, 2, 1, 3]), (2, 5, 42))

    np.testing.assert_array_equal(rest.run(build, x), wanted)


@few
@given(st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(0, 2))
def test_concatenation_of_expressions(rest: Any, sizes: list[int], axis: int) -> None:
    parts = []
    for seed, size in enumerate(sizes):
        shape = [3, 5, 4]
        shape[axis] = size
        parts.append(_normal(tuple(shape), seed))
    got = rest.run(lambda *xs: R.concat([R.multiply(x, x) for x in xs], axis), *parts)
    wanted = np.concatenate([np.square(part) for part in parts], axis)
    np.testing.assert_array_equal(got, wanted)


@few
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=3))
def test_padding(rest: Any, widths: list[tuple[int, int]]) -> None:
    x = _normal((4, 5, 6))
    flat = [width for both in widths for width in both]
    got = rest.run(lambda a: R.nn.relu(R.nn.pad(a, flat)), x)
    np.testing.assert_array_equal(got, np.maximum(np.pad(x, widths), 0))


def test_split_gives_every_part(rest: Any) -> None:
    x = _normal((3, 10, 4))

    def build(a: relax.Expr) -> relax.Expr:
        parts = R.split(a, 2, 1)
        return R.subtract(parts[0], parts[1])

    np.testing.assert_array_equal(rest.run(build, x), x[:, :5] - x[:, 5:])


def test_slices_flips_and_tiles(rest: Any) -> None:
    x = _normal((9, 8))
    got = rest.run(lambda a: R.strided_slice(a, [0, 1], [8, 0], [0, 8], [-3, 2]), x)
    np.testing.assert_array_equal(got, x[8:0:-3, ::2])
    np.testing.assert_array_equal(rest.run(lambda a: R.flip(a, 1), x), x[:, ::-1])
    np.testing.assert_array_equal(rest.run(lambda a: R.tile(a, (2, 3)), x), np.tile(x, (2, 3)))


def test_lookups(rest: Any) -> None:
    table, place = _normal((11, 24)), _normal((4, 24), 1)
    rows = np.array([3, 10, 0, 3], np.int64)
    got = rest.run(lambda t, i, p: R.add(R.take(t, i, 0), p), table, rows, place)
    np.testing.assert_array_equal(got, table[rows] + place)
    which = np.random.default_rng(0).integers(0, 11, (6, 24))
    got = rest.run(lambda t, i: R.gather_elements(t, i, 0), table, which)
    np.testing.assert_array_equal(got, np.take_along_axis(table, which, 0))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_nearest_resize(rest: Any, layout: str) -> None:
    x = _normal((2, 5, 6, 3) if layout == "NHWC" else (2, 3, 5, 6))

    def build(a: relax.Expr) -> relax.Expr:
        return R.image.resize2d(
            a,
            (10, 12),
            layout=layout,
            method="nearest_neighbor",
            coordinate_transformation_mode="asymmetric",
            rounding_method="floor",
        )

    h, w = layout.index("H"), layout.index("W")
    np.testing.assert_array_equal(rest.run(build, x), x.repeat(2, h).repeat(2, w))


def test_linear_resize_interpolates(rest: Any) -> None:
    ramp = np.broadcast_to(np.arange(7, dtype=np.float32)[:, None], (1, 5, 7, 9)).copy()

    def build(a: relax.Expr) -> relax.Expr:
        return R.image.resize2d(
            a,
            (9, 13),
            layout="NHWC",
            method="linear",
            coordinate_transformation_mode="align_corners",
        )

    wanted = np.broadcast_to(np.linspace(0, 6, 13)[:, None], (1, 9, 13, 9))
    # Positions up to 6 are products of two rounded factors; the weights err as much.
    _close(rest.run(build, ramp), wanted, 6 * 8 * U)


def _windows(x: np.ndarray, size: int, stride: int, pad: int, fill: float) -> np.ndarray:
    """Return (n, c, oh, ow, size, size) windows of x: (n, c, h, w), in float64."""
    widths = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    padded = np.pad(x.astype(np.float64), widths, constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    return view[:, :, ::stride, ::stride]


def test_pools(rest: Any) -> None:
    x = _normal((2, 5, 13, 11))
    got = rest.run(lambda a: R.nn.max_pool2d(a, (3, 3), (2, 2), (1, 1)), x)
    np.testing.assert_array_equal(got, _windows(x, 3, 2, 1, -np.inf).max((-2, -1)))
    got = rest.run(lambda a: R.nn.avg_pool2d(a, (3, 3), (1, 1), (1, 1)), x)
    counts = _windows(np.ones_like(x), 3, 1, 1, 0.0).sum((-2, -1))
    windows = _windows(x, 3, 1, 1, 0.0)
    bound = _gamma(10) * np.abs(windows).sum((-2, -1)) / counts
    _close(got, windows.sum((-2, -1)) / counts, bound)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 33, 70), (17, 64, 7)])
def test_matrix_products(rest: Any, m: int, k: int, n: int) -> None:
    x, w, b = _normal((2, m, k)), _normal((2, k, n), 1), _normal((n,), 2)
    got = rest.run(lambda a, c, d: R.nn.relu(R.add(R.matmul(a, c), d)), x, w, b)
    exact = x.astype(np.float64) @ w + b
    bound = _gamma(k + 1) * (np.abs(x).astype(np.float64) @ np.abs(w) + np.abs(b))
    _close(got, np.maximum(exact, 0), bound)


def test_convolutions(rest: Any) -> None:
    x, w = _normal((2, 6, 9, 8)), _normal((4, 3, 3, 3), 1)
    got = rest.run(lambda a, c: R.nn.conv2d(a, c, (2, 1), (1, 1), groups=2), x, w)
    exact, size = np.zeros((2, 4, 5, 8)), np.zeros((2, 4, 5, 8))
    for group in range(2):
        windows = _windows(x[:, 3 * group : 3 * group + 3], 3, 1, 1, 0.0)[:, :, ::2]
        weights = w[2 * group : 2 * group + 2].astype(np.float64)
        part = np.s_[:, 2 * group : 2 * group + 2]
        exact[part] = np.einsum("nchwij,ocij->nohw", windows, weights)
        size[part] = np.einsum("nchwij,ocij->nohw", np.abs(windows), np.abs(weights))
    _close(got, exact, _gamma(27) * size)


def test_a_transposed_convolution(rest: Any) -> None:
    x, w = _normal((1, 4, 5, 6)), _normal((4, 3, 2, 2), 1)
    got = rest.run(lambda a, c: R.nn.conv2d_transpose(a, c, (2, 2)), x, w)
    exact = np.einsum("nchw,coij->nohiwj", x.astype(np.float64), w).reshape(1, 3, 10, 12)
    size = np.einsum("nchw,coij->nohiwj", np.abs(x).astype(np.float64), np.abs(w))
    _close(got, exact, _gamma(16) * size.reshape(1, 3, 10, 12))


def test_normalization_over_groups(rest: Any) -> None:
    x, g, b = _normal((2, 6, 5, 4)), _normal((6,), 1), _normal((6,), 2)
    got = rest.run(lambda a, s, t: R.nn.group_norm(a, s, t, 3, 1, [2, 3]), x, g, b)
    wide = x.astype(np.float64).reshape(2, 3, -1)
    scaled = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    wanted = scaled.reshape(x.shape) * g[:, None, None] + b[:, None, None]
    # TVM takes E[x**2] - E[x]**2: for 40 values of variance near 1 and mean below 1, both err by
    # gamma(42) of at most 2, and so does the difference, which is halved in the root.
    _close(got, wanted, (4 * _gamma(42) * (1 + np.abs(wanted))) * (1 + np.abs(g[:, None, None])))


def test_what_cannot_be_read_runs_as_it_is(rest: Any) -> None:
    x, updates = _normal((10, 8)), _normal((10, 4), 1)
    where = np.argsort(_normal((10, 8), 2), 1)[:, :4].astype(np.int64)
    got = rest.run(lambda a, i, u: R.scatter_elements(a, i, u, 1), x, where, updates)
    wanted = x.copy()
    np.put_along_axis(wanted, where, updates, 1)
    np.testing.assert_array_equal(got, wanted)
