"""Whatever a form's builder writes, every pass of the room leaves recognisable and unchanged.

Scales are powers of two and operands small, so that every float32 sum and product is exact and a
value can be compared bit by bit whatever the order in which a pass lets it be computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.passes.canonicalize import canonicalize_passes
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]

OP = relax.op
RNG = np.random.default_rng(11)


def _canonicalize(mod: tvm.IRModule) -> tvm.IRModule:
    for step in canonicalize_passes(Report()):
        mod = step(mod)
    return mod


def _how(
    scale: object, zero: int = 0, dtype: str = "int8", axis: int = 0, count: int = 0
) -> Affine:
    values = np.full(count, scale, "f4") if count else np.array(scale, "f4")
    if count:
        values[::2] *= 2
    return Affine(
        scale=values, zero_point=np.full(values.shape, zero, "i4"), dtype=dtype, axis=axis
    )


def _small(*shape: int, dtype: str = "int8") -> np.ndarray:
    low = 0 if dtype.startswith("u") else -7
    return RNG.integers(low, 8, shape).astype(dtype)


def _definition(mod: tvm.IRModule) -> forms.Define:
    values = dict(ir.bindings(mod["main"]))
    return lambda expr: values.get(expr, expr) if isinstance(expr, relax.Var) else expr


def _calls(mod: tvm.IRModule, name: str) -> list[relax.Call]:
    return [call for call in ir.calls(mod) if ir.is_call_to(call, name)]


IN, MIDDLE = _how(0.5, 3, "uint8"), _how(0.25, 0, "uint8")
KERNEL = _how(0.125, axis=0, count=4)
MATRIX = _how(0.0625, axis=1, count=5)


def _network(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    """Return a quantized network as an exporter writes it: NCHW, pairs around every operator."""
    emit = bb.emit
    data = emit(forms.dequantize(emit(forms.quantize(x, IN), "q"), IN), "data")
    padded = emit(OP.nn.pad(data, [0, 0, 0, 0, 1, 1, 1, 1], pad_value=0.0), "padded")
    kernel = forms.Dequantized(codes=KERNEL_CODES, how=KERNEL).build(emit, "kernel")
    conv = emit(OP.nn.conv2d(padded, kernel), "conv")
    bias = emit(forms.dequantize(relax.const(BIAS), forms.bias_how(IN, KERNEL, 0)), "bias")
    biased = emit(OP.add(conv, emit(OP.reshape(bias, (1, 4, 1, 1)), "bias_4d")), "biased")
    relu = emit(OP.nn.relu(biased), "relu")
    pair = emit(forms.dequantize(emit(forms.quantize(relu, MIDDLE), "q2"), MIDDLE), "pair")
    pool = emit(OP.nn.max_pool2d(pair, (2, 2), strides=(2, 2)), "pool")
    again = emit(forms.dequantize(emit(forms.quantize(pool, MIDDLE), "q3"), MIDDLE), "again")
    flat = emit(OP.reshape(again, (1, 36)), "flat")
    codes = forms.Dequantized(codes=MATRIX_CODES, how=_how(0.0625, axis=0, count=5))
    matrix = emit(OP.permute_dims(codes.build(emit, "w")), "matrix")
    return OP.matmul(flat, matrix)


KERNEL_CODES, MATRIX_CODES = _small(4, 2, 3, 3), _small(5, 36)
BIAS = np.array([40, -30, 20, -10], "i4")


def test_a_quantized_network_runs_on_integers(build: Build, run: Run, counts: Counts) -> None:
    before = build(_network, (1, 2, 6, 6))
    after = _canonicalize(before)

    look_up = _definition(after)
    (conv,), (matmul,) = _calls(after, "relax.nn.conv2d"), _calls(after, "relax.matmul")
    first, second = (forms.match_product(call, look_up) for call in (conv, matmul))
    assert first is not None
    assert second is not None
    assert first.codes is not None
    assert first.codes.shape == (4, 3, 3, 2)
    assert [int(p) for p in conv.attrs.padding] == [1, 1, 1, 1]
    (add,) = _calls(after, "relax.add")
    bias = forms.match_bias(add.args[1], look_up, first.data_how, first.weight_how)
    np.testing.assert_array_equal(bias, BIAS)
    # The pool's data is integers, the pair around it and the relu in front of one are gone.
    assert ir.dtype(_calls(after, "relax.nn.max_pool2d")[0].args[0]) == "uint8"
    assert counts(after)["quantize"] == 2
    assert "nn.relu" not in counts(after)
    x = RNG.integers(-4, 5, (1, 2, 6, 6)).astype("f4") / 2
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_canonicalizing_twice_is_canonicalizing_once(build: Build) -> None:
    once = _canonicalize(build(_network, (1, 2, 6, 6)))
    tvm.ir.assert_structural_equal(_canonicalize(once), once)


def _stored(shape: tuple[int, ...]) -> dict[str, forms.Stored]:
    """Return a constant of each kind, its first axis the outputs, its second the inputs."""
    outputs, inputs, *taps = shape
    grouped = (outputs, inputs // 2, 2, *taps)
    scale = 2.0 ** RNG.integers(-3, 0, (outputs, inputs // 2, 1, *([1] * len(taps))))
    return {
        "a tensor": forms.Dequantized(codes=_small(*shape), how=_how(0.5)),
        "channels": forms.Dequantized(codes=_small(*shape), how=_how(0.5, axis=0, count=outputs)),
        "asymmetric channels": forms.Dequantized(
            codes=_small(*shape, dtype="uint8"), how=_how(0.5, 3, "uint8", 0, outputs)
        ),
        "groups": forms.Grouped(
            codes=_small(*grouped), scale=scale.astype("f4"), zero=None, axis=1
        ),
        "asymmetric groups": forms.Grouped(
            codes=_small(*grouped),
            scale=scale.astype("f4"),
            zero=RNG.integers(-2, 3, scale.shape).astype("f4"),
            axis=1,
        ),
        "halves": forms.Cast(values=_small(*shape).astype("f2")),
        "brain halves": forms.Cast(values=_small(*shape).astype(ml_dtypes.bfloat16)),
        "codebook": forms.Codebook(
            table=2.0 ** np.arange(-4, 4, dtype="f4"), codes=_small(*shape, dtype="uint8")
        ),
    }


@pytest.mark.parametrize("kind", _stored((5, 4)))
def test_a_stored_matrix_survives(build: Build, run: Run, kind: str) -> None:
    stored = _stored((5, 4))[kind]

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        weight = bb.emit(OP.permute_dims(stored.build(bb.emit, "w")), "transposed")
        rows = bb.emit(OP.matmul(x, weight), "y")
        return OP.nn.relu(bb.emit(OP.add(rows, relax.const(np.ones(5, "f4"))), "biased"))

    before = build(body, (3, 4))
    after = _canonicalize(before)
    (matmul,) = _calls(after, "relax.matmul")
    found = forms.match_stored(matmul.args[1], _definition(after))
    assert type(found) is type(stored)
    assert found is not None
    np.testing.assert_array_equal(found.value(), stored.value().T)
    x = RNG.integers(-4, 5, (3, 4)).astype("f4")
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
    tvm.ir.assert_structural_equal(_canonicalize(after), after)


@pytest.mark.parametrize("kind", _stored((5, 4, 3, 3)))
def test_a_stored_kernel_survives(build: Build, run: Run, kind: str) -> None:
    stored = _stored((5, 4, 3, 3))[kind]

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        weight = stored.build(bb.emit, "w")
        y = bb.emit(OP.nn.conv2d(x, weight, padding=(1, 1)), "y")
        return bb.emit(OP.multiply(y, relax.const(np.full((1, 5, 1, 1), 2.0, "f4"))))

    before = build(body, (1, 4, 5, 5))
    after = _canonicalize(before)
    (conv,) = _calls(after, "relax.nn.conv2d")
    found = forms.match_stored(conv.args[1], _definition(after))
    assert type(found) is type(stored)
    assert found is not None
    np.testing.assert_array_equal(found.value(), stored.value().transpose(0, 2, 3, 1))
    x = RNG.integers(-4, 5, (1, 4, 5, 5)).astype("f4")
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_a_matrix_behind_a_flatten_has_its_rows_permuted(build: Build, run: Run) -> None:
    kinds = ("channels", "asymmetric channels", "halves", "codebook")
    stored = {kind: _stored((5, 36))[kind] for kind in kinds}
    kernel = relax.const(_small(4, 2, 3, 3).astype("f4"))

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        flat = bb.emit(OP.reshape(bb.emit(OP.nn.conv2d(x, kernel), "conv"), (1, 36)))
        results = []
        for kind, weight in stored.items():
            matrix = bb.emit(OP.permute_dims(weight.build(bb.emit, kind)))
            results.append(bb.emit(OP.matmul(flat, matrix), f"y_{kind}"))
        return relax.Tuple(results)

    before = build(body, (1, 2, 5, 5))
    after = _canonicalize(before)
    # Only the input is transposed; the rows of each matrix follow the convolution's result.
    assert len(_calls(after, "relax.permute_dims")) == 1
    for call, weight in zip(_calls(after, "relax.matmul"), stored.values(), strict=True):
        assert type(forms.match_stored(call.args[1], _definition(after))) is type(weight)
    x = RNG.integers(-4, 5, (1, 2, 5, 5)).astype("f4")
    for ours, theirs in zip(run(after, x), run(before, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rows_quantized_at_run_time_survive(build: Build, run: Run) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        rows = forms.quantize_rows(x, bb.emit, "rows")
        weights = [_stored((5, 4))[kind].transposed((1, 0)) for kind in ("channels", "halves")]
        results = [bb.emit(OP.matmul(rows, w.build(bb.emit, "w")), "y") for w in weights]
        return OP.nn.gelu(bb.emit(OP.add(*results), "sum"))

    before = build(body, (2, 3, 4))
    after = _canonicalize(before)
    first, second = _calls(after, "relax.matmul")
    found = forms.match_rows(first.args[0], _definition(after))
    assert found is not None
    assert found.x.same_as(after["main"].params[0])
    assert first.args[0].same_as(second.args[0])
    x = RNG.standard_normal((2, 3, 4)).astype("f4")
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
    tvm.ir.assert_structural_equal(_canonicalize(after), after)


def test_rows_that_join_the_heads_of_attention_survive(build: Build, run: Run) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        joined = bb.emit(OP.permute_dims(x, (0, 2, 1, 3)))
        joined = bb.emit(OP.reshape(joined, (1, 5, 12)))
        rows = forms.quantize_rows(joined, bb.emit, "rows")
        return OP.matmul(rows, _stored((12, 4))["channels"].build(bb.emit, "w"))

    before = build(body, (1, 3, 5, 4))
    after = _canonicalize(before)
    (product,) = _calls(after, "relax.matmul")
    # The reshape and the transposition stay in front of the rows, and do not cut them in pieces.
    assert forms.match_rows(product.args[0], _definition(after)) is not None
    x = RNG.standard_normal((1, 3, 5, 4)).astype("f4")
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
    tvm.ir.assert_structural_equal(_canonicalize(after), after)


def test_tensors_quantized_at_run_time_survive(build: Build, run: Run) -> None:
    codes = _small(4, 5, dtype="uint8")

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        q, scale, zero = forms.quantize_tensor(x, bb.emit, "q")
        data = forms.center(q, zero, bb.emit, "data")
        weight = forms.center(relax.const(codes), relax.const(np.uint8(5)), bb.emit, "w")
        acc = bb.emit(OP.astype(bb.emit(OP.matmul(data, weight), "acc"), "float32"), "float")
        both = bb.emit(OP.multiply(scale, relax.const(np.float32(0.5))), "scales")
        return OP.multiply(acc, both)

    before = build(body, (3, 4))
    after = _canonicalize(before)
    (matmul,) = _calls(after, "relax.matmul")
    found = forms.match_integer_product(matmul, _definition(after))
    assert found is not None
    assert found.data.zero is not None
    assert found.weight.zero is None
    np.testing.assert_array_equal(ir.constant(found.weight.codes), codes.astype(int) - 5)
    x = RNG.standard_normal((3, 4)).astype("f4")
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
    tvm.ir.assert_structural_equal(_canonicalize(after), after)


def test_an_axis_without_meaning_may_be_any(build: Build, run: Run) -> None:
    def body(bb: relax.BlockBuilder, q: relax.Expr) -> relax.Expr:
        x = bb.emit(OP.dequantize(q, relax.const(np.float32(0.5)), relax.const(3, "int32"), axis=3))
        y = bb.emit(OP.nn.relu(bb.emit(OP.reshape(x, (6, 4)))))
        z = bb.emit(OP.reshape(y, (1, 2, 3, 4)))
        u = bb.emit(OP.quantize(z, relax.const(np.float32(0.5)), relax.const(3, "int8"), axis=3))
        return OP.reshape(u, (24,))

    before = build(body, (1, 2, 3, 4), dtype="int8")
    q = RNG.integers(-128, 128, (1, 2, 3, 4), "int8")
    np.testing.assert_array_equal(run(_canonicalize(before), q)[0], run(before, q)[0])
