"""Sites are matched and given kernels; the rest is fused and scheduled."""

from tvmopt.lowering.kernel_cache import LowerOptions
from tvmopt.lowering.sites import lower

__all__ = ["LowerOptions", "lower"]
