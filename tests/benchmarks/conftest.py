"""The benchmarks are no part of what is installed: they run from the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # last, so that the installed package is still the one that is tested
