"""Target descriptions: plain data about machines."""

from tvmopt.targets.catalog import TARGETS, get
from tvmopt.targets.description import CpuTarget
from tvmopt.targets.native import check_runs_here
from tvmopt.targets.parse import resolve

__all__ = ["TARGETS", "CpuTarget", "check_runs_here", "get", "resolve"]
