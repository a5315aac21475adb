"""The compiler: which passes run, in which order."""

from __future__ import annotations

import logging

from threadpoolctl import threadpool_limits

from tvmopt.codegen import Artifact, BuildMeta, build
from tvmopt.compress import canonicalize
from tvmopt.lowering import LowerOptions, lower
from tvmopt.model import Model, as_target
from tvmopt.report import Report
from tvmopt.targets import CpuTarget

logger = logging.getLogger(__name__)


def compile(  # noqa: A001  (tvmopt.compile reads best)
    model: Model,
    target: CpuTarget | str = "native",
    *,
    name: str | None = None,
    winograd: bool = True,
) -> Artifact:
    """Compile a model into a stand-alone shared object.

    The result is a function of the model and the resolved target alone: nothing is timed.

    Args:
        model: What ``tvmopt.load`` returns.
        target: A target, or what ``tvmopt.targets.resolve`` takes, such as ``"x86-64-v3"``.
        name: Prefix of the artefact's symbols, a C identifier; the model's own name if None.
        winograd: Whether 3x3 convolutions may use Winograd's form, whose rounding differs.

    Raises:
        TargetError: The target is unknown or contradicts itself.
        OptionError: ``name`` is no C identifier.
        ToolchainError: The target's C compiler is missing or fails.
    """
    resolved = as_target(target)
    report = Report(list(model.report.decisions))
    compression = model.compression
    smaller = compression is not None and compression.recipe.keep == "smaller"
    options = LowerOptions(winograd=winograd, smaller=smaller)
    # One thread: what numpy computes then depends on no machine's count of cores, and its pool does
    # not spin while others work.
    with threadpool_limits(limits=1):
        lowered = lower(canonicalize(model.mod, report), resolved, report, options)
    logger.info("%s: %d kernels for %s", model.name, len(report.decisions), resolved.name)
    meta = BuildMeta(
        name=name or model.name,
        input_names=tuple(spec.name for spec in model.inputs),
        output_names=tuple(spec.name for spec in model.outputs),
        model_sha256=model.sha256,
        recipe=model.compression.describe() if model.compression else None,
        options={"winograd": winograd},
    )
    return build(lowered, resolved, meta)
