"""Passes that bring an imported graph into the one form that lowering expects."""

from __future__ import annotations

import tvm
from tvm import relax

from tvmopt.passes.canonicalize.canonicalize_clip import CanonicalizeClip
from tvmopt.passes.canonicalize.canonicalize_codes import CanonicalizeCodes
from tvmopt.passes.canonicalize.canonicalize_constants import CanonicalizeConstants
from tvmopt.passes.canonicalize.canonicalize_convolution import CanonicalizeConvolution
from tvmopt.passes.canonicalize.canonicalize_layout import CanonicalizeLayout
from tvmopt.passes.canonicalize.canonicalize_matmul import CanonicalizeMatmul
from tvmopt.passes.canonicalize.canonicalize_reduction import CanonicalizeReduction
from tvmopt.passes.canonicalize.center_weights import CenterWeights
from tvmopt.passes.canonicalize.eliminate_identities import EliminateIdentities
from tvmopt.passes.canonicalize.eliminate_requantization import EliminateRequantization
from tvmopt.passes.canonicalize.fold_batch_norm import FoldBatchNorm
from tvmopt.passes.canonicalize.fold_constants import FoldConstants, FoldConstantsOptions
from tvmopt.passes.canonicalize.fold_padding import FoldPadding
from tvmopt.passes.canonicalize.fuse_activation import FuseActivation
from tvmopt.passes.canonicalize.fuse_layer_norm import FuseLayerNorm
from tvmopt.passes.canonicalize.raise_quantize import RaiseQuantize
from tvmopt.passes.canonicalize.sink_dequantize import SinkDequantize
from tvmopt.report import Report


def canonicalize_passes(report: Report) -> list[tvm.transform.Pass]:
    """Return the passes of this room in the order in which they run.

    Args:
        report: Where each pass notes what it decided.
    """
    fold = FoldConstantsOptions()
    return [
        # Less to look at first: what is constant, what does nothing, what is there twice.
        FoldConstants(fold, report),
        EliminateIdentities(report),
        CanonicalizeConstants(report),
        CanonicalizeCodes(report),
        relax.transform.EliminateCommonSubexpr(),
        # Composite operators, before folding moves a part of one into a neighbour.
        CanonicalizeClip(report),
        FuseActivation(report),
        FuseLayerNorm(report),
        CanonicalizeReduction(report),
        CanonicalizeMatmul(report),
        FoldPadding(report),
        FoldBatchNorm(report),
        # One spelling of what is left, then the layout, whose moves may meet moves.
        CanonicalizeConvolution(report),
        *_on_integers(report),
        CanonicalizeLayout(report),
        # Where a transposition of the model stood between, operators are neighbours only now.
        FoldPadding(report),
        FoldBatchNorm(report),
        *_on_integers(report),
        FoldPadding(report),
        FoldConstants(fold, report),
        CanonicalizeCodes(report),
        EliminateIdentities(report),
        relax.transform.EliminateCommonSubexpr(),
        relax.transform.DeadCodeElimination(["main"]),
    ]


def _on_integers(report: Report) -> list[tvm.transform.Pass]:
    """Return the passes that let integers stand for numbers as far as they can."""
    return [
        SinkDequantize(report),
        RaiseQuantize(report),
        EliminateRequantization(report),
        CenterWeights(report),
    ]
