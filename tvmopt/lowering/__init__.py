"""Sites are matched and given kernels; the rest is fused and scheduled."""

from tvmopt.lowering.kernel_cache import LowerOptions
from tvmopt.lowering.predict import predict_layers
from tvmopt.lowering.sites import lower

__all__ = ["LowerOptions", "lower", "predict_layers"]
