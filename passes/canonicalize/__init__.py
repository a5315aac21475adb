"""Passes that bring an imported graph into the one form that lowering expects."""

from __future__ import annotations

import tvm

from tvmopt.passes.canonicalize.canonicalize_layout import CanonicalizeLayout
from tvmopt.passes.canonicalize.fold_batch_norm import FoldBatchNorm
from tvmopt.passes.canonicalize.fold_constants import FoldConstants, FoldConstantsOptions
from tvmopt.report import Report


def canonicalize_passes(report: Report) -> list[tvm.transform.Pass]:
    """Return the passes of this room in the order in which they must run.

    Args:
        report: Where each pass notes what it decided.
    """
    fold = FoldConstantsOptions()
    return [
        FoldConstants(fold, report),
        FoldBatchNorm(report),
        CanonicalizeLayout(report),
        FoldConstants(fold, report),
    ]
