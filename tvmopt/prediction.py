"""What passes may ask about time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tvm

Predict = Callable[[tvm.IRModule], Mapping[str, float]]
"""Returns the predicted cycles of one core for each step of a canonical net, by its name: a layer's
step has the layer's name, so that a sum over all is the net's time, and one entry a layer's own."""
