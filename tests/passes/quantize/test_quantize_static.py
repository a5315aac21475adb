"""Mirror of passes/quantize/quantize_static.py, with integer_rewriter.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError, OptionError
from tvmopt.frontend.onnx import TensorSpec
from tvmopt.passes.quantize.grid import Grid, symmetric, symmetric_grid
from tvmopt.passes.quantize.layer_bits import LayerBits
from tvmopt.passes.quantize.layers import Layer
from tvmopt.passes.quantize.quantize_static import (
    QuantizeStatic,
    QuantizeStaticOptions,
    with_room_for_bias,
)
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Convolve = Callable[..., relax.Expr]
MakeSamples = Callable[..., Samples]
Net = Callable[..., tvm.IRModule]
Quantize = Callable[..., tuple[tvm.IRModule, Report]]

SHAPE = (1, 6, 6, 4)
op = relax.op


@pytest.fixture(scope="module")
def net(build: Build, convolve: Convolve) -> Net:
    """A stem, a residual block, and a mean and a matmul behind it."""

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        stem = convolve(bb, x, "stem", 8)
        inner = convolve(bb, stem, "inner", 8)
        outer = convolve(bb, inner, "outer", 8, act=None)
        added = bb.emit(op.add(stem, outer), "added")
        rectified = bb.emit(op.nn.relu(added), "rectified")
        pooled = bb.emit(op.mean(rectified, axis=[1, 2], keepdims=True), "pooled")
        flat = bb.emit(op.reshape(pooled, (1, 8)), "flat")
        weight = np.random.default_rng(9).normal(size=(8, 5)).astype("float32")
        logits = bb.emit(op.matmul(flat, relax.const(weight)), "fc_matmul")
        return bb.emit(op.add(logits, relax.const(np.arange(5, dtype="float32"))), "fc")

    return lambda: build(body, SHAPE)


@pytest.fixture(scope="module")
def cached_tap(tap: Tap) -> Tap:
    """The tap, which compiles what it has compiled before no second time."""
    known: dict[tuple[str, ...], object] = {}

    def make(mod: tvm.IRModule, names: list[str]) -> object:
        key = (tvm.ir.save_json(mod), *names)
        if key not in known:
            known[key] = tap(mod, names)
        return known[key]

    return make


@pytest.fixture
def quantize(
    cached_tap: Tap, make_samples: MakeSamples
) -> Callable[..., tuple[tvm.IRModule, Report]]:
    def call(mod: tvm.IRModule, *, data: Samples | None = None, **options: object) -> object:
        report = Report()
        data = make_samples(SHAPE) if data is None else data
        return QuantizeStatic(QuantizeStaticOptions(**options), data, cached_tap, report)(
            mod
        ), report

    return call


def _definitions(mod: tvm.IRModule) -> dict[str, relax.Expr]:
    return {var.name: value for var, value in ir.bindings(mod["main"])}


def _product(mod: tvm.IRModule, name: str) -> forms.Product:
    values = dict(ir.bindings(mod["main"]))
    var = next(v for v in values if v.name == name)
    found = forms.match_product(values[var], lambda e: values.get(e, e))
    assert found is not None
    return found


def _evaluate(mod: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    """Follow the quantized graph of ``net`` in integers, as an integer kernel does."""
    values = dict(ir.bindings(mod["main"]))
    named = {var.name: var for var in values}
    define = lambda e: values.get(e, e)  # noqa: E731

    def how(name: str) -> forms.Affine:
        return forms.match_quantize(values[named[f"{name}_quantized"]])[1]

    def layer(name: str, q: np.ndarray) -> tuple[np.ndarray, float]:
        product = _product(mod, name)
        codes = product.codes.astype(np.int64)
        data = q.astype(np.int64) - int(product.data_how.zero_point)
        total = next(
            v
            for v in values.values()
            if ir.is_call_to(v, "relax.add") and any(a.same_as(named[name]) for a in v.args)
        )
        bias = forms.match_bias(total.args[1], define, product.data_how, product.weight_how)
        if codes.ndim == 2:
            acc = data @ codes
        else:
            pad = codes.shape[1] // 2
            wide = np.pad(data, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(wide, codes.shape[1:3], (1, 2))
            acc = np.einsum("nhwckl,oklc->nhwo", windows, codes)
        return (acc + bias).astype(np.float64), np.float64(
            forms.bias_how(product.data_how, product.weight_how, 0).scale
        )

    def act(acc: np.ndarray, unit: np.ndarray, name: str, *, plus: object = 0.0) -> np.ndarray:
        to = how(name)
        real = np.maximum(acc * unit + plus, 0.0)
        return np.clip(np.rint(real / np.float64(to.scale)) + int(to.zero_point), 0, 255)

    q = forms.quantized(x, how("x0"))
    stem = act(*layer("stem_conv2d", q), "stem_act")
    inner = act(*layer("inner_conv2d", stem), "inner_act")
    residual = (stem - int(how("stem_act").zero_point)) * np.float64(how("stem_act").scale)
    block = act(*layer("outer_conv2d", inner), "rectified", plus=residual)
    to, of = how("pooled"), how("rectified")
    mean = (block - int(of.zero_point)).mean((1, 2)) * np.float64(of.scale)
    pooled = np.clip(np.rint(mean / np.float64(to.scale)) + int(to.zero_point), 0, 255)
    acc, unit = layer("fc_matmul", pooled)
    return acc * unit


def test_graph_computes_what_integers_compute(net: Net, quantize: Quantize, run: Run) -> None:
    mod, _ = quantize(net())
    x = np.random.default_rng(3).normal(size=SHAPE).astype("float32")
    # The graph sums float32 products of at most 72 terms where the integers are exact. A value
    # within that rounding of a half may fall to the other step; the draw has no such value, so
    # that the same integers reach the last layer, whose 8 products are rounded in float32.
    np.testing.assert_allclose(run(mod, x)[0], _evaluate(mod, x), rtol=1e-5, atol=1e-5)


def test_result_is_near_the_floats(net: Net, quantize: Quantize, run: Run) -> None:
    mod, _ = quantize(net())
    x = np.random.default_rng(5).normal(size=(2, *SHAPE[1:])).astype("float32")[:1]  # calibrated
    before, after = run(net(), x)[0], run(mod, x)[0]
    # Five roundings of half of 1/255 of a range on the way, weights of half of 1/127: in all about
    # 1 % of the outputs' spread. Wrong wiring would give 100 %.
    assert np.abs(after - before).max() < 0.03 * np.ptp(before)


def test_structure(net: Net, quantize: Quantize, counts: Counts) -> None:
    mod, _ = quantize(net())
    found = counts(mod)
    # x, stem, inner, the sum and the mean, each once; outer's own result is never stored.
    assert found["quantize"] == 5
    # They are read so, the mean by way of its view; four weights and four biases.
    assert found["dequantize"] == 5 + 8
    names = _definitions(mod)
    for name in ("x0", "stem_act", "inner_act", "rectified", "pooled"):
        assert f"{name}_quantized" in names
    assert ir.dtype(next(v for v, _ in ir.bindings(mod["main"]) if v.name == "flat")) == "uint8"
    residual = names["added"]
    assert {arg.name for arg in residual.args} == {"stem_act_dequantized", "outer"}


def test_names_stay(net: Net, quantize: Quantize) -> None:
    before, (after, _) = net(), quantize(net())
    assert set(_definitions(before)) <= set(_definitions(after)) | {"result"}


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (7, 64), (4, 7), (2, 1)])
def test_weights_stay_within_their_bits(net: Net, quantize: Quantize, bits: int, most: int) -> None:
    mod, _ = quantize(net(), weight_bits=bits, sensitive_bits=2)
    for name in ("stem_conv2d", "inner_conv2d", "outer_conv2d", "fc_matmul"):
        product = _product(mod, name)
        assert np.abs(product.codes).max() == most
        assert (product.weight_how.zero_point == 0).all()
        assert product.weight_how.scale.shape == (5 if name == "fc_matmul" else 8,)


def test_one_scale_a_tensor(net: Net, quantize: Quantize) -> None:
    mod, _ = quantize(net(), weight_granularity="tensor")
    assert _product(mod, "inner_conv2d").weight_how.scale.shape == ()


def test_symmetric_activations_are_signed(net: Net, quantize: Quantize) -> None:
    mod, _ = quantize(net(), activation_symmetric=True)
    how = _product(mod, "inner_conv2d").data_how
    assert (how.dtype, int(how.zero_point)) == ("int8", 0)


def test_bias_counts_in_units_of_the_accumulators(net: Net, quantize: Quantize) -> None:
    mod, _ = quantize(net())
    product, names = _product(mod, "inner_conv2d"), _definitions(mod)
    codes, how = forms.match_dequantize(names["inner_conv2d_bias"])
    bias = ir.constant(_definitions(net())["inner"].args[1])
    unit = np.float32(product.data_how.scale) * product.weight_how.scale
    np.testing.assert_array_equal(how.scale, unit)
    assert how.dtype == "int32"
    # Half a unit, and the rounding of the dequantized bias.
    error = np.abs(ir.constant(codes).reshape(-1) * unit - bias.reshape(-1))
    assert (error <= unit * 0.5 + np.abs(bias.reshape(-1)) * 2.0**-23).all()


def test_bias_beside_dead_weights_fits_32_bits() -> None:
    layer = _dead_layer()
    data = forms.Affine(scale=np.float32(1e-3), zero_point=np.int32(0), dtype="uint8")
    grid = symmetric_grid(np.array([1.0, 1e-15]), symmetric(8), axis=0)
    roomy = with_room_for_bias(grid, layer, data)
    assert roomy.scale[0] == grid.scale[0]
    assert (np.abs(layer.bias) / (1e-3 * roomy.scale.astype(np.float64)) <= 2.0**30 * 1.001).all()


def _dead_layer() -> Layer:
    return Layer(
        var=relax.Var("dead", relax.TensorType((1, 1, 1, 2), "float32")),
        weight=np.array([1.0, 1e-15], np.float32).reshape(2, 1, 1, 1),
        axis=0,
        depthwise=False,
        bias=np.array([0.5, 0.5], np.float32),
        bias_var=None,
        first=False,
        last=False,
    )


def test_first_last_and_depthwise_keep_8_bits(
    build: Build, convolve: Convolve, quantize: Callable
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        for name, deep in (("first", False), ("middle", False), ("deep", True), ("last", False)):
            x = convolve(bb, x, name, 4, depthwise=deep)
        return x

    mod, report = quantize(build(body, SHAPE), weight_bits=4)
    most = {
        n: np.abs(_product(mod, f"{n}_conv2d").codes).max()
        for n in ("first", "middle", "deep", "last")
    }
    assert most == {"first": 127, "middle": 7, "deep": 127, "last": 127}
    reasons = {d.site: d.reason.split(" by ")[0] for d in report.decisions}
    assert reasons == {
        "first_conv2d": "8-bit weights (first layer)",
        "middle_conv2d": "4-bit weights",
        "deep_conv2d": "8-bit weights (depthwise layer)",
        "last_conv2d": "8-bit weights (last layer)",
    }


def test_rules_decide_and_the_last_wins(net: Net, quantize: Quantize) -> None:
    rules = (
        LayerBits(pattern="*", bits=4),
        LayerBits(pattern="stem", bits=6),  # the name of the sum will do
        LayerBits(pattern="fc_*", bits=None),
    )
    mod, report = quantize(net(), rules=rules)
    assert np.abs(_product(mod, "stem_conv2d").codes).max() == 31
    assert np.abs(_product(mod, "inner_conv2d").codes).max() == 7
    assert ir.is_constant(_definitions(mod)["fc_matmul"].args[1])
    left = [(d.site, d.reason) for d in report.decisions if not d.applied]
    assert left == [("fc_matmul", "rule 'fc_*'")]


def test_skipped_layer_stays_and_the_report_says_why(net: Net, quantize: Quantize) -> None:
    mod, report = quantize(net(), skip={"inner_conv2d": "it costs 2 points"})
    assert ir.is_constant(_definitions(mod)["inner_conv2d"].args[1])
    # It reads and writes what its neighbours want in integers.
    assert {"stem_act_quantized", "inner_act_quantized"} <= set(_definitions(mod))
    assert ("inner_conv2d", False, "it costs 2 points") in [
        (d.site, d.applied, d.reason) for d in report.decisions
    ]


def test_nothing_to_do_gives_the_module_back(build: Build, quantize: Quantize) -> None:
    before = build(lambda bb, x: bb.emit(op.nn.relu(x), "y"), SHAPE)
    after, report = quantize(before)
    tvm.ir.assert_structural_equal(after, before)
    assert report.decisions == []


def test_input_module_is_not_changed(net: Net, quantize: Quantize) -> None:
    before = net()
    quantize(before)
    tvm.ir.assert_structural_equal(before, net())


def test_same_input_gives_the_same_module(net: Net, quantize: Quantize) -> None:
    tvm.ir.assert_structural_equal(quantize(net())[0], quantize(net())[0])


def test_sums_that_may_overflow_are_left_in_floats(build: Build, quantize: Quantize) -> None:
    wide = relax.const(np.ones((34_000, 1), "float32"))
    mod = build(lambda bb, x: bb.emit(op.matmul(x, wide), "wide"), (1, 34_000))
    after, report = quantize(mod)  # nothing is left to calibrate: the samples are not looked at
    assert [(d.site, d.applied, d.reason) for d in report.decisions] == [
        ("wide", False, "34000 products may not fit a 32-bit sum")
    ]
    tvm.ir.assert_structural_equal(after, mod)


def test_output_that_a_layer_reads_too(
    build: Build, convolve: Convolve, quantize: Quantize
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        soft = bb.emit(op.nn.softmax(x), "soft")
        inner = convolve(bb, soft, "a", 4)
        return relax.Tuple([soft, inner, convolve(bb, inner, "b", 4)])

    after, _ = quantize(build(body, SHAPE))
    values = dict(ir.bindings(after["main"]))
    result = values[after["main"].body.body]
    # What floats give is returned as it is; what a layer gives is stored once, as integers.
    assert [field.name for field in result.fields] == ["soft", "a_act_dequantized", "b_act"]


def test_what_is_quantized_already_is_left_and_read_as_it_is(
    net: Net, quantize: Quantize, counts: Counts
) -> None:
    first, _ = quantize(net(), layers=("stem*", "inner*"))
    second, report = quantize(first)
    assert [(d.site, d.applied) for d in report.decisions] == [
        ("outer_conv2d", True),
        ("fc_matmul", True),
    ]
    # inner_act, which outer reads, the sum and the mean, besides x and stem_act.
    assert counts(second)["quantize"] == counts(first)["quantize"] + 3
    assert _product(second, "inner_conv2d").data.name == "stem_act_quantized"


def test_bytes_are_read_as_they_are(
    convolve: Convolve, quantize: Quantize, make_samples: MakeSamples
) -> None:
    builder = relax.BlockBuilder()
    image = relax.Var("image", relax.TensorType(SHAPE, "uint8"))
    with builder.function("main", [image]):
        with builder.dataflow():
            cast = builder.emit(op.astype(image, "float32"), "cast")
            result = builder.emit_output(convolve(builder, cast, "stem", 8), "result")
        builder.emit_func_output(result)
    data = make_samples(SHAPE, name="image", dtype="uint8")
    mod, _ = quantize(builder.finalize(), data=data)
    product = _product(mod, "stem_conv2d")
    assert product.data.name == "image"
    assert (float(product.data_how.scale), int(product.data_how.zero_point)) == (1.0, 0)


def test_rounding_of_weights_can_be_replaced(net: Net, tap: Tap, make_samples: MakeSamples) -> None:
    seen = {}

    def floor(name: str, weight: np.ndarray, grid: Grid) -> np.ndarray:
        seen[name] = weight.shape
        return grid.clip(np.floor(weight / grid.spread(grid.scale, weight.shape)), weight.shape)

    data = make_samples(SHAPE)
    mod = QuantizeStatic(QuantizeStaticOptions(), data, tap, Report(), round_weights=floor)(net())
    assert seen == {
        "stem_conv2d": (8, 3, 3, 4),
        "inner_conv2d": (8, 3, 3, 8),
        "outer_conv2d": (8, 3, 3, 8),
        "fc_matmul": (8, 5),
    }
    product = _product(mod, "fc_matmul")
    weight = ir.constant(_definitions(net())["fc_matmul"].args[1])
    np.testing.assert_array_equal(
        product.codes, np.clip(np.floor(weight / product.weight_how.scale), -127, 127)
    )


def test_values_that_overflow_are_refused_by_name(
    net: Net, quantize: Quantize, make_samples: MakeSamples
) -> None:
    data = make_samples(SHAPE)
    data._arrays["x0"][1] = np.float32(3e38)  # finite, but no sum of them is
    with pytest.raises(DataError, match="must be finite on every calibration sample, got"):
        quantize(net(), data=data)


def test_words_lose_less_than_bytes(
    net: Net, quantize: Quantize, make_samples: MakeSamples, cached_tap: Tap
) -> None:
    mod, wanted = net(), cached_tap(net(), ["fc"])
    errors = {}
    for bits in (8, 16):
        new, report = quantize(mod, activation_bits=bits)
        run, name = cached_tap(new, [new["main"].body.body.name]), new["main"].body.body.name
        gaps = [run(feed)[name] - wanted(feed)["fc"] for feed in make_samples(SHAPE)]
        errors[bits] = float(np.square(gaps).sum())
        stored = {str(v.attrs.out_dtype) for _, v in ir.bindings(new["main"]) if _quantizes(v)}
        assert stored == {"uint8" if bits == 8 else "int16"}
    # What the weights of 8 bits lose, both lose; what is on top comes of the bytes.
    assert errors[16] < errors[8]
    assert all("input int16 of step" in d.reason for d in report.decisions if d.applied)


def _quantizes(value: relax.Expr) -> bool:
    return ir.is_call_to(value, "relax.quantize")


def test_words_stay_within_32_bits(build: Build, quantize: Quantize) -> None:
    rng = np.random.default_rng(3)
    # 600 weights of the same magnitude count as 127 each: 600 * 127 * 2^15 > 2^30. Of 600 normal
    # ones the sum is about a quarter of that times what a finer grid may add.
    even = rng.choice([-1.0, 1.0], (600, 4)).astype("f4")
    few = even[:100]

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        wide = bb.emit(op.matmul(x, relax.const(even)), "wide_matmul")
        part = bb.emit(op.strided_slice(x, [1], [0], [100]), "part")
        return op.add(wide, bb.emit(op.matmul(part, relax.const(few)), "narrow_matmul"))

    shape = (1, 600)
    mod = build(body, shape)
    data = Samples(
        [TensorSpec(name="x0", dtype="float32", shape=shape)],
        {"x0": rng.standard_normal((16, 600)).astype("f4")},
    )
    _, report = quantize(mod, data=data, activation_bits=16)
    decided = {d.site: d for d in report.decisions}
    assert decided["narrow_matmul"].applied
    assert not decided["wide_matmul"].applied
    assert decided["wide_matmul"].reason == "600 products may not fit a 32-bit sum"


_BAD: Mapping[str, tuple[dict[str, object], str]] = {
    "pattern": ({"layers": ("conv9*",)}, "'conv9.*' must match a layer, .* none of the 4: stem_"),
    "rule": ({"rules": (LayerBits(pattern="nope", bits=4),)}, "'nope' must match a layer"),
    "skip": ({"skip": {"nope": "because"}}, "'nope' must match a layer"),
    "bits": ({"weight_bits": 9}, "weight_bits must be from 2 to 8, got 9"),
    "sensitive": ({"sensitive_bits": 1}, "sensitive_bits must be from 2 to 8, got 1"),
    "activations": ({"activation_bits": 12}, "activation_bits must be 8 or 16, got 12; there are"),
    "granularity": ({"weight_granularity": "group"}, "must be 'channel' or 'tensor' .* 'group'"),
    "method": ({"weight_method": "kl"}, "method must be 'max' or 'mse', got 'kl'"),
    "range": ({"activation_range": "kl"}, "the range method must be one of minmax"),
    "percentile": ({"percentile": 50.0}, r"percentile must be in \(50, 100\], got 50.0"),
}


@pytest.mark.parametrize("name", _BAD)
def test_impossible_options_are_refused(net: Net, quantize: Quantize, name: str) -> None:
    options, message = _BAD[name]
    with pytest.raises(OptionError, match=message):
        quantize(net(), **options)


def test_rule_needs_possible_bits() -> None:
    with pytest.raises(OptionError, match="bits must be from 2 to 8, got 1"):
        LayerBits(pattern="*", bits=1)
