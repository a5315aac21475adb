"""Lowered IRModule -> stand-alone shared object."""

from tvmopt.codegen.artifact import Artifact
from tvmopt.codegen.build import BuildMeta, build

__all__ = ["Artifact", "BuildMeta", "build"]
