"""A net run part by part is the net."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError
from tvmopt.passes.quantize.segments import Segments

QuantizeNet = Callable[..., tvm.IRModule]


def _named(mod: tvm.IRModule) -> dict[str, relax.Var]:
    return {var.name: var for var, _ in ir.bindings(mod["main"])}


def _whole(mod: tvm.IRModule, samples: Samples, tap: Tap, name: str) -> list[np.ndarray]:
    run = tap(mod, [name])
    return [run(feed)[name] for feed in samples]


def _parts(
    segments: Segments, mod: tvm.IRModule, samples: Samples, names: list[str], goal: str
) -> list[np.ndarray]:
    """Run up to each name in turn, keeping what is needed behind it; return ``goal``'s values."""
    found: list[np.ndarray] = []
    for name in names:
        var = _named(mod)[name]
        with segments.part([var], segments.place[var] + 1) as run:
            got = [run(i, feed)[name] for i, feed in enumerate(samples)]
        found = got if name == goal else found
    return found


@pytest.mark.parametrize("bits", [None, 8])
def test_parts_give_what_the_whole_gives_bit_for_bit(
    bits: int | None,
    small_net: tvm.IRModule,
    quantize_net: QuantizeNet,
    net_samples: Samples,
    net_tap: Tap,
    tmp_path: Path,
) -> None:
    mod = small_net if bits is None else quantize_net(weight_bits=bits)
    samples = net_samples.spread(4)
    goal = "right_matmul"
    segments = Segments(mod, samples, net_tap, tmp_path, [_named(mod)[goal]])
    names = ["stem_conv2d", "deep_conv2d", "point_conv2d", goal]
    got = _parts(segments, mod, samples, names, goal)
    # Kernels are the same ones on the same numbers, wherever the net is cut.
    np.testing.assert_array_equal(got, _whole(mod, samples, net_tap, goal))
    assert list(tmp_path.iterdir()) == []  # nothing is kept once nothing reads it


def test_a_change_shows_in_the_parts_behind_it(
    small_net: tvm.IRModule, net_samples: Samples, net_tap: Tap, tmp_path: Path
) -> None:
    samples = net_samples.spread(2)
    named = _named(small_net)
    goal = named["point_conv2d"]
    segments = Segments(small_net, samples, net_tap, tmp_path, [goal])
    with segments.part([named["act"]], segments.place[named["deep"]]) as run:
        before = [run(i, feed)["act"] for i, feed in enumerate(samples)]
    segments.change(named["deep"], lambda value, _: relax.op.multiply(*value.args))
    segments.change(named["cut"], lambda value, _: relax.op.nn.relu(value.args[0]))
    with segments.part([named["cut"]], segments.place[goal]) as run:
        after = [run(i, feed)["cut"] for i, feed in enumerate(samples)]
    plain = _whole(small_net, samples, net_tap, "deep_conv2d")
    bias = ir.float_constant(dict(ir.bindings(small_net["main"]))[named["deep"]].args[1])
    assert len(before) == 2
    for got, product in zip(after, plain, strict=True):
        np.testing.assert_array_equal(got, np.maximum(product * bias, 0))


def test_an_input_can_be_asked_for_and_takes_no_compiling(
    small_net: tvm.IRModule, net_samples: Samples, tmp_path: Path
) -> None:
    def no_tap(*_: object) -> None:
        pytest.fail("there is nothing to compile")

    param = small_net["main"].params[0]
    goal = _named(small_net)["stem_conv2d"]
    segments = Segments(small_net, net_samples, no_tap, tmp_path, [goal])
    with segments.part([param], 0) as run:
        got = [run(i, feed)["x"] for i, feed in enumerate(net_samples)]
    np.testing.assert_array_equal(got, [feed["pixels"] for feed in net_samples])


def test_integers_are_kept_instead_of_the_floats_they_stand_for(
    quantize_net: QuantizeNet, net_samples: Samples, net_tap: Tap, tmp_path: Path
) -> None:
    mod, samples = quantize_net(), net_samples.spread(2)
    named = _named(mod)
    segments = Segments(mod, samples, net_tap, tmp_path, [named["point_conv2d"]])
    with segments.part([named["deep_conv2d"]], segments.place[named["deep_conv2d"]]) as run:
        for i, feed in enumerate(samples):
            run(i, feed)
    # Two samples of (1, 4, 4, 16) bytes: the residual and the layer itself read the same tensor.
    assert [kept.nbytes for kept in segments._kept.values()] == [2 * 4 * 4 * 16]
    assert list(tmp_path.iterdir()) == []  # a process that is killed leaves nothing of it behind


def test_a_full_disk_is_told_in_words(
    small_net: tvm.IRModule, net_samples: Samples, net_tap: Tap, tmp_path: Path
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    named = _named(small_net)
    place = {var.name: i for i, var in enumerate(named.values())}["act"]
    (tmp_path / f"{place}.bin").symlink_to("/dev/full")
    segments = Segments(small_net, net_samples, net_tap, tmp_path, [named["point_conv2d"]])

    def run_one() -> None:
        with segments.part([named["act"]], place + 1) as run:
            run(0, next(iter(net_samples)))

    with pytest.raises(DataError, match=r"must fit on the disk, got .* set TMPDIR"):
        run_one()
