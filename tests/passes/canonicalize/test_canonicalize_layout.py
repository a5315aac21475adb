"""Mirror of passes/canonicalize/canonicalize_layout.py and the rules it applies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.canonicalize_layout import CanonicalizeLayout
from tvmopt.passes.canonicalize.layout_table import LAYOUT_RULES
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Integers = Callable[..., np.ndarray]
Emit = Callable[[relax.Expr], relax.Expr]
Body = Callable[..., relax.Expr]


def _const(array: np.ndarray) -> relax.Expr:
    return relax.const(np.asarray(array, "float32"))


def _check(
    build: Build, run: Run, integers: Integers, body: Body, *shapes: tuple[int, ...]
) -> tvm.IRModule:
    """Rewrite a graph, compare it with itself on integers bit by bit, and return it."""
    before = build(body, *shapes)
    after = CanonicalizeLayout(Report())(before)
    inputs = [integers(100 + i, *shape) for i, shape in enumerate(shapes)]
    old, new = run(before, *inputs), run(after, *inputs)
    assert len(old) == len(new)
    for a, b in zip(old, new, strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(b, a)
    return after


def _residual_net(integers: Integers) -> Body:
    """Convolutions, a residual, squeeze and excitation, pooling, flatten, dense: one of each."""

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        e = bb.emit
        y = e(relax.op.nn.conv2d(x, _const(integers(1, 6, 3, 3, 3)), padding=1), "stem")
        y = e(relax.op.nn.relu(e(relax.op.add(y, _const(integers(2, 1, 6, 1, 1))))))
        z = e(
            relax.op.nn.conv2d(y, _const(integers(3, 6, 1, 3, 3)), padding=1, groups=6), "depthwise"
        )
        y = e(relax.op.add(y, z))
        s = e(relax.op.max(y, [2, 3], keepdims=True))
        s = e(relax.op.nn.conv2d(s, _const(integers(4, 6, 6, 1, 1))))
        y = e(relax.op.multiply(y, e(relax.op.clip(s, 0.0, 2.0))))
        y = e(relax.op.nn.max_pool2d(y, (2, 2), strides=(2, 2)))
        y = e(relax.op.reshape(y, (2, -1)))
        return e(
            relax.op.add(e(relax.op.matmul(y, _const(integers(5, 24, 4)))), _const(integers(6, 4)))
        )

    return body


def test_a_network_has_one_transposition_at_its_input(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    after = _check(build, run, integers, _residual_net(integers), (2, 3, 4, 4))

    assert counts(after)["permute_dims"] == 1
    first = next(value for _, value in ir.bindings(after["main"]))
    assert ir.is_call_to(first, "relax.permute_dims")
    for call in ir.calls(after):
        if ir.is_call_to(call, "relax.nn.conv2d"):
            layouts = (call.attrs.data_layout, call.attrs.kernel_layout, call.attrs.out_layout)
            assert layouts == ("NHWC", "OHWI", "NHWC")
    names = [var.name for var, _ in ir.bindings(after["main"])]
    assert {"stem", "depthwise"} <= set(names)


def test_printed_form(build: Build, integers: Integers, golden: Callable[[str], None]) -> None:
    golden(CanonicalizeLayout(Report())(build(_residual_net(integers), (2, 3, 4, 4))).script())


def test_the_report_names_what_moves(build: Build, integers: Integers) -> None:
    report = Report()
    CanonicalizeLayout(report)(build(_residual_net(integers), (2, 3, 4, 4)))
    assert [(d.site, d.applied, d.reason) for d in report.decisions] == [
        ("x0", True, "its readers want it in another order than it is made in")
    ]


def test_input_module_is_not_changed(build: Build, integers: Integers) -> None:
    before = build(_residual_net(integers), (2, 3, 4, 4))
    CanonicalizeLayout(Report())(before)
    tvm.ir.assert_structural_equal(before, build(_residual_net(integers), (2, 3, 4, 4)))


def test_what_is_channels_last_already_stays(build: Build, integers: Integers) -> None:
    once = CanonicalizeLayout(Report())(build(_residual_net(integers), (2, 3, 4, 4)))
    report = Report()
    tvm.ir.assert_structural_equal(CanonicalizeLayout(report)(once), once)


def test_a_perceptron_stays_as_it_is(build: Build, integers: Integers) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.matmul(x, _const(integers(1, 5, 4))))
        return bb.emit(relax.op.nn.relu(bb.emit(relax.op.add(y, _const(integers(2, 4))))))

    before, report = build(body, (3, 5)), Report()
    after = CanonicalizeLayout(report)(before)
    assert report.decisions == []
    assert [v.op.name for v in ir.calls(after)] == [v.op.name for v in ir.calls(before)]


def test_transpositions_of_a_channels_last_model_disappear(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        x = bb.emit(relax.op.permute_dims(x, [0, 3, 1, 2]))
        y = bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 4, 3, 3, 3))))
        return bb.emit(relax.op.permute_dims(y, [0, 2, 3, 1]))

    after = _check(build, run, integers, body, (2, 5, 5, 3))
    assert counts(after) == {"nn.conv2d": 1}


def test_one_channel_in_front_needs_no_transposition(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 4, 1, 3, 3)), strides=2))
        return bb.emit(relax.op.mean(y, [2, 3], keepdims=True))

    after = _check(build, run, integers, body, (2, 1, 5, 5))
    assert counts(after)["permute_dims"] == 0


def test_flatten_between_convolution_and_matmul_permutes_the_constant(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 4, 2, 2, 2))))
        y = bb.emit(relax.op.nn.relu(bb.emit(relax.op.reshape(y, (3, 24)))))
        return bb.emit(relax.op.matmul(y, _const(integers(2, 24, 5))))

    after = _check(build, run, integers, body, (3, 2, 3, 4))
    assert counts(after)["permute_dims"] == 1  # the input's


def test_squeezed_convolutions_keep_their_elementwise_neighbours(
    build: Build, run: Run, integers: Integers
) -> None:
    """As ``CanonicalizeConvolution`` leaves behind two convolutions along one axis."""

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        for seed, channels in ((1, 3), (2, 4)):
            x = bb.emit(relax.op.expand_dims(x, 2))
            x = bb.emit(relax.op.nn.conv2d(x, _const(integers(seed, 4, channels, 1, 3))))
            x = bb.emit(relax.op.squeeze(x, [2]))
            x = bb.emit(relax.op.add(x, _const(integers(seed + 2, 1, 4, 1))))
            x = bb.emit(relax.op.nn.relu(x))
        return x

    after = _check(build, run, integers, body, (2, 3, 9))
    shapes = [ir.shape(c) for c in ir.calls(after) if ir.is_call_to(c, "relax.add")]
    assert shapes == [(2, 1, 7, 4), (2, 1, 5, 4)]  # as the convolutions store them


def test_channel_shuffle_is_one_transposition(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 6, 3, 1, 1))))
        y = bb.emit(relax.op.reshape(y, (2, 2, 3, 4, 4)))
        y = bb.emit(relax.op.permute_dims(y, [0, 2, 1, 3, 4]))
        y = bb.emit(relax.op.reshape(y, (2, 6, 4, 4)))
        return bb.emit(
            relax.op.max(bb.emit(relax.op.nn.conv2d(y, _const(integers(2, 2, 6, 1, 1)))), [2, 3])
        )

    after = _check(build, run, integers, body, (2, 3, 4, 4))
    assert counts(after)["permute_dims"] == 2  # the input's and the shuffle


def test_attention_keeps_its_shape(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        def heads(seed: int, axes: list[int]) -> relax.Expr:
            y = bb.emit(relax.op.matmul(x, _const(integers(seed, 6, 6))))
            return bb.emit(relax.op.permute_dims(bb.emit(relax.op.reshape(y, (1, 4, 2, 3))), axes))

        q, k, v = heads(1, [0, 2, 1, 3]), heads(2, [0, 2, 3, 1]), heads(3, [0, 2, 1, 3])
        scores = bb.emit(relax.op.clip(bb.emit(relax.op.matmul(q, k)), -1.0, 1.0))
        y = bb.emit(relax.op.permute_dims(bb.emit(relax.op.matmul(scores, v)), [0, 2, 1, 3]))
        y = bb.emit(relax.op.reshape(y, (1, 4, 6)))
        return bb.emit(relax.op.add(bb.emit(relax.op.matmul(y, _const(integers(4, 6, 6)))), x))

    before = build(body, (1, 4, 6))
    after = _check(build, run, integers, body, (1, 4, 6))
    assert counts(after) == counts(before)


def test_quantized_weight_is_permuted_inside(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        w = relax.const(integers(1, 4, 3, 2, 2).astype("int8"))
        scale, zero = _const([1.0, 2.0, 4.0, 0.5]), relax.const(np.zeros(4, "int8"))
        w = bb.emit(relax.op.dequantize(w, scale, zero, axis=0), "weight")
        book = _const([-1.0, 0.0, 2.0])
        indices = relax.const(np.random.default_rng(0).integers(0, 3, (4, 4, 1, 1)).astype("uint8"))
        v = bb.emit(relax.op.take(book, indices, axis=0), "looked_up")
        y = bb.emit(relax.op.nn.conv2d(x, w))
        return bb.emit(relax.op.max(bb.emit(relax.op.nn.conv2d(y, v)), [2, 3]))

    after = _check(build, run, integers, body, (1, 3, 4, 4))
    assert counts(after)["permute_dims"] == 1  # the input's
    assert {"dequantize", "take"} <= set(counts(after))


def test_scales_of_a_reshaped_weight_stay_on_their_axis(
    build: Build, run: Run, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        w = relax.const(integers(1, 4, 6).astype("int8"))
        scale, zero = _const([1.0, 2.0, 4.0, 0.5]), relax.const(np.zeros(4, "int8"))
        w = bb.emit(relax.op.dequantize(w, scale, zero, axis=0))
        w = bb.emit(relax.op.reshape(w, (2, 2, 6, 1)))
        return bb.emit(relax.op.nn.conv2d(x, w))

    _check(build, run, integers, body, (1, 2, 7, 3))


def _axis_ops() -> dict[str, Body]:
    """Operators with axes, behind a convolution so that the tensor is stored channels-last."""
    op = relax.op
    return {
        "concat": lambda y, _: op.concat([y, y], axis=1),
        "concat along height": lambda y, _: op.concat([y, _const(np.ones((2, 4, 1, 3)))], axis=-2),
        "slice": lambda y, _: op.strided_slice(y, [1, 3], [1, 0], [3, 2]),
        "pad": lambda y, _: op.nn.pad(y, (0, 0, 1, 0, 0, 2, 0, 0), pad_value=3.0),
        "flip": lambda y, _: op.flip(y, 1),
        "tile": lambda y, _: op.tile(y, (1, 2, 1, 3)),
        "take one": lambda y, _: op.take(y, relax.const(np.int64(2)), axis=1),
        "take some": lambda y, _: op.take(y, relax.const(np.array([2, 0])), axis=1),
        "sum": lambda y, _: op.sum(y, [1], keepdims=False),
        "sum all": lambda y, _: op.sum(y),
        "max keeping": lambda y, _: op.max(y, [1, 2], keepdims=True),
        "argmax": lambda y, _: op.astype(op.argmax(y, 1), "float32"),
        "argmax of all": lambda y, _: op.astype(op.argmax(y), "float32"),
        "cumsum": lambda y, _: op.cumsum(y, 1),
        "cumsum of all": lambda y, _: op.cumsum(y),
        "prelu": lambda y, _: op.nn.prelu(y, _const([1.0, 2.0, 0.5, 4.0]), axis=1),
        "broadcast": lambda y, _: op.broadcast_to(y, (5, 2, 4, 4, 3)),
        "where": lambda y, _: op.where(op.greater(y, _const(0.0)), y, _const(np.ones((4, 1, 1)))),
        "outer add": lambda y, _: op.add(op.max(y, [2, 3], True), op.max(y, [0, 1], True)),
        "lower rank": lambda y, _: op.add(y, op.max(y, [0, 1])),
        "scalar": lambda y, _: op.multiply(op.sum(y, [0, 1, 2, 3], keepdims=True), y),
        "resize": lambda y, _: op.image.resize2d(
            y, relax.ShapeExpr((8, 6)), method="nearest_neighbor"
        ),
        "sort": lambda y, _: op.sort(y, 1),
        "expand and squeeze": lambda y, _: op.squeeze(op.expand_dims(y, [0, 3]), [0]),
        "reshape across": lambda y, _: op.reshape(y, (2, 3, 4, 4)),
        "merge and max": lambda y, _: op.max(op.reshape(y, (2, 4, 12)), [2]),
        "merged sum": lambda y, _: op.sum(op.reshape(y, (2, 48)), [1]),
        "average pool": lambda y, _: op.nn.avg_pool2d(y, (2, 1), count_include_pad=True),
        "graph input": lambda y, x: op.add(y, op.strided_slice(x, [2, 3], [0, 0], [4, 3])),
    }


def test_axes_are_renumbered(build: Build, run: Run, integers: Integers) -> None:
    # All in one graph: what takes time is to compile it.
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 4, 4, 2, 2))))
        return relax.Tuple([bb.emit(bb.normalize(make(y, x))) for make in _axis_ops().values()])

    before = build(body, (2, 4, 5, 4))
    after = CanonicalizeLayout(Report())(before)

    x = integers(0, 2, 4, 5, 4)
    for name, old, new in zip(_axis_ops(), run(before, x), run(after, x), strict=True):
        np.testing.assert_array_equal(new, old, err_msg=name)


def test_split_keeps_the_stored_order(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 6, 3, 1, 1))))
        parts = bb.emit(relax.op.split(y, [2, 5], axis=1))
        a, b = (bb.emit(relax.TupleGetItem(parts, i)) for i in (0, 2))
        return relax.Tuple([bb.emit(relax.op.max(a, [2, 3])), bb.emit(relax.op.sum(b, [1, 2, 3]))])

    after = _check(build, run, integers, body, (2, 3, 3, 3))
    assert counts(after)["permute_dims"] == 1


def test_layer_norm_runs_where_its_axes_are_last(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    """A norm over channels, as in ConvNeXt: between two transpositions that cancel."""

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 4, 3, 1, 1))))
        y = bb.emit(relax.op.permute_dims(y, [0, 2, 3, 1]))
        y = bb.emit(relax.op.nn.layer_norm(y, _const(np.ones(4)), _const(np.zeros(4)), [-1]))
        y = bb.emit(relax.op.permute_dims(y, [0, 3, 1, 2]))
        return bb.emit(
            relax.op.max(bb.emit(relax.op.nn.conv2d(y, _const(integers(2, 2, 4, 1, 1)))), [2, 3])
        )

    before = build(body, (1, 3, 3, 3))
    after = CanonicalizeLayout(Report())(before)
    assert counts(after)["permute_dims"] == 1
    x = integers(0, 1, 3, 3, 3)
    # The norm's values are O(1) and no integers; 4 products in another order, of weights up to 3.
    np.testing.assert_allclose(
        run(after, x)[0], run(before, x)[0], rtol=0, atol=4 * 3 * 2 * 2.0**-23
    )


def test_every_rule_is_for_an_operator_of_tvm() -> None:
    for name in LAYOUT_RULES:
        tvm.ir.Op.get(name)


def test_an_open_dimension_leaves_the_module_alone() -> None:
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((n, 3, 4, 4), "float32"))
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(relax.op.nn.relu(x))
        bb.emit_func_output(out)
    before, report = bb.finalize(), Report()
    assert CanonicalizeLayout(report)(before).same_as(before)
    assert report.decisions[0].reason == "a tensor has no static shape"


_STEPS: dict[str, Callable[[Emit, relax.Expr, int], relax.Expr]] = {
    "relu": lambda e, x, _: e(relax.op.nn.relu(x)),
    "double": lambda e, x, _: e(relax.op.add(x, x)),
    "transpose": lambda e, x, seed: e(
        relax.op.permute_dims(x, [int(a) for a in np.random.default_rng(seed).permutation(4)])
    ),
    "shuffle": lambda e, x, _: e(
        relax.op.reshape(e(relax.op.reshape(x, (-1,))), [ir.shape(x)[i] for i in (1, 0, 3, 2)])
    ),
    "bias": lambda e, x, seed: e(
        relax.op.add(x, _const(np.random.default_rng(seed).integers(-2, 3, (ir.shape(x)[1], 1, 1))))
    ),
    "conv": lambda e, x, seed: e(
        relax.op.nn.conv2d(
            x,
            _const(np.random.default_rng(seed).integers(-1, 2, (2, ir.shape(x)[1], 1, 1))),
        )
    ),
    "residual": lambda e, x, _: e(relax.op.subtract(e(relax.op.clip(x, -2.0, 2.0)), x)),
    "pool": lambda e, x, _: e(
        relax.op.clip(e(relax.op.multiply(x, e(relax.op.max(x, [2, 3], keepdims=True)))), -9.0, 9.0)
    ),
    "rows": lambda e, x, _: e(relax.op.flip(x, 2)),
}


@pytest.mark.slow
@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    shape=st.tuples(*(st.sampled_from([1, 2, 3]) for _ in range(4))),
    steps=st.lists(st.tuples(st.sampled_from(sorted(_STEPS)), st.integers(0, 99)), max_size=6),
)
def test_any_graph_computes_the_same(
    build: Build,
    run: Run,
    integers: Integers,
    shape: tuple[int, ...],
    steps: list[tuple[str, int]],
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        for name, seed in steps:
            x = _STEPS[name](bb.emit, x, seed)
        return x

    _check(build, run, integers, body, shape)
