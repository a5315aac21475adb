"""The passes that a recipe can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tvmopt.errors import OptionError
from tvmopt.passes.lowrank.options import FactorizeLayersOptions
from tvmopt.passes.prune.channel_options import PruneChannelsOptions
from tvmopt.passes.prune.prune_weights import PruneWeightsOptions
from tvmopt.passes.prune.refit_layers import RefitLayersOptions
from tvmopt.passes.quantize.bias_correction import CorrectBiasOptions
from tvmopt.passes.quantize.equalize_layers import EqualizeLayersOptions
from tvmopt.passes.quantize.keep_sensitive import KeepSensitiveOptions
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamicOptions
from tvmopt.passes.quantize.quantize_static import QuantizeStaticOptions
from tvmopt.passes.quantize.quantize_weights import QuantizeWeightsOptions
from tvmopt.passes.quantize.repair_weights import RepairWeightsOptions
from tvmopt.passes.quantize.smooth_quant import SmoothQuantOptions
from tvmopt.recipe.tables import nearest

Stage = Literal["restructure", "prune", "prepare", "quantize", "repair"]
STAGES: tuple[Stage, ...] = get_args(Stage)
FLOATS: tuple[Stage, ...] = ("restructure", "prune")
"""The stages that run for real before anything is planned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassKind:
    """A pass, as recipes know it.

    Attributes:
        name: In recipes.
        options: The class of its options.
        stage: "restructure" changes the shapes of layers, "prune" makes zeros and fits the other
            floats, "prepare" scales floats, "quantize" makes integers of them, "repair" changes
            those.
        needs_samples: Whether it learns from calibration samples.
        bits: The option that says how many bits a weight has, and which layers may differ in; None
            where there is none.
        hidden: Options that recipes do not set, because their own rules do.
    """

    name: str
    options: type[Any]
    stage: Stage
    needs_samples: bool
    bits: str | None = None
    hidden: tuple[str, ...] = ()


_BY_LAYER = ("rules", "skip")  # recipes say it by rules for all passes

KINDS: tuple[PassKind, ...] = (
    PassKind(
        name="equalize-layers",
        options=EqualizeLayersOptions,
        stage="prepare",
        needs_samples=False,
    ),
    PassKind(
        name="smooth-quant",
        options=SmoothQuantOptions,
        stage="prepare",
        needs_samples=True,
    ),
    PassKind(
        name="factorize-layers",
        options=FactorizeLayersOptions,
        stage="restructure",
        needs_samples=True,
        hidden=("skip",),
    ),
    PassKind(
        name="prune-channels",
        options=PruneChannelsOptions,
        stage="restructure",
        needs_samples=True,
        hidden=("skip",),
    ),
    PassKind(
        name="prune-weights",
        options=PruneWeightsOptions,
        stage="prune",
        needs_samples=True,
        hidden=("skip",),
    ),
    PassKind(
        name="refit-layers",
        options=RefitLayersOptions,
        stage="prune",
        needs_samples=True,
        hidden=("skip",),
    ),
    PassKind(
        name="quantize-static",
        options=QuantizeStaticOptions,
        stage="quantize",
        needs_samples=True,
        bits="weight_bits",
        hidden=_BY_LAYER,
    ),
    PassKind(
        name="quantize-dynamic",
        options=QuantizeDynamicOptions,
        stage="quantize",
        needs_samples=False,
        bits="weight_bits",
        hidden=_BY_LAYER,
    ),
    PassKind(
        name="quantize-weights",
        options=QuantizeWeightsOptions,
        stage="quantize",
        needs_samples=False,
        bits="bits",
        hidden=_BY_LAYER,
    ),
    PassKind(
        name="repair-weights",
        options=RepairWeightsOptions,
        stage="repair",
        needs_samples=True,
    ),
    PassKind(
        name="correct-bias",
        options=CorrectBiasOptions,
        stage="repair",
        needs_samples=True,
    ),
    PassKind(
        name="keep-sensitive",
        options=KeepSensitiveOptions,
        stage="repair",
        needs_samples=True,
    ),
)


def kind_named(name: str, where: str) -> PassKind:
    """Return a kind by its name.

    Raises:
        OptionError: There is none of that name.
    """
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise OptionError(f"{where}: unknown pass {name!r}; {nearest(name, [k.name for k in KINDS])}")


def kind_of(options: Any) -> PassKind:
    """Return the kind whose options these are.

    Raises:
        OptionError: They are the options of no pass.
    """
    for kind in KINDS:
        if type(options) is kind.options:
            return kind
    known = ", ".join(kind.options.__name__ for kind in KINDS)
    raise OptionError(f"passes must be options of passes ({known}), got {options!r}")
