"""Low rank, then sparse, then quantized and repaired: one recipe on the demo's net, to the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tvmopt
from tvmopt import Recipe, demo_data, runtime
from tvmopt.passes.lowrank.options import FactorizeLayersOptions
from tvmopt.passes.prune.prune_weights import PruneWeightsOptions
from tvmopt.passes.quantize.quantize_static import QuantizeStaticOptions
from tvmopt.passes.quantize.repair_weights import RepairWeightsOptions
from tvmopt.targets import CpuTarget

HEAD = "head_conv_Conv_conv2d"
HEADS = ("head*",)
DATA = Path(demo_data.__file__).parent
RECIPE = Recipe(
    passes=(
        FactorizeLayersOptions(rank_by="share", share=0.5, layers=HEADS),
        PruneWeightsOptions(sparsity=0.5, structure="16x4", rounds=2, layers=HEADS),
        QuantizeStaticOptions(layers=HEADS),
        RepairWeightsOptions(sweeps=0),
    ),
    keep="all",
)


@pytest.fixture(scope="module")
def model() -> tvmopt.Model:
    return tvmopt.load(DATA / "fashion_mnist.onnx")


@pytest.fixture(scope="module")
def small(model: tvmopt.Model, here: CpuTarget) -> tvmopt.Model:
    with np.load(DATA / "fashion_mnist_calibration.npz") as arrays:
        images = arrays["image"][:64]
    return model.apply(RECIPE, calibration={"image": images}, target=here)


def test_every_pass_had_the_factors(small: tvmopt.Model) -> None:
    done = {(d.pass_name, d.site) for d in small.report.decisions if d.applied}
    for name in ("PruneWeights", "RepairWeights"):
        assert {(name, f"{HEAD}__first"), (name, HEAD)} <= done
    assert ("FactorizeLayers", HEAD) in done
    (result,) = [layer for layer in small.compression.layers if layer.layer == HEAD]
    assert set(result.became) == {HEAD, f"{HEAD}__first"}
    assert result.sparsity[1] >= 0.45  # half the blocks, of which the last may be cut


def test_the_artefact_answers_as_the_net_of_floats_does(
    model: tvmopt.Model, small: tvmopt.Model, here: CpuTarget, tmp_path: Path
) -> None:
    with np.load(DATA / "fashion_mnist_test.npz") as arrays:
        images, labels = arrays["image"][:300], arrays["labels"][:300]
    right = []
    for name, one in (("float", model), ("small", small)):
        net = runtime.open(tvmopt.compile(one, here).save(tmp_path / f"{name}.so"))
        answers = [int(np.argmax(net({"image": image[None]}))) for image in images]
        right.append(np.mean(np.array(answers) == labels))
    # 93 % are right in floats. One layer at a half of its rank, blocks and bits costs a few: the
    # repair holds it near, where a head without one would be at 10 % of chance.
    assert right[0] > 0.9
    assert right[1] > right[0] - 0.05


def test_a_forecast_knows_the_parts(model: tvmopt.Model, here: CpuTarget) -> None:
    told = model.forecast(RECIPE, target=here)
    (result,) = [layer for layer in told.layers if layer.layer == HEAD]
    assert set(result.became) == {HEAD, f"{HEAD}__first"}
