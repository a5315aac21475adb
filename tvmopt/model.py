"""A model in memory, between a file and an artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tvm

from tvmopt.compress import Given, compress, forecast, samples_for
from tvmopt.compression import Compression
from tvmopt.context import Progress
from tvmopt.errors import OptionError
from tvmopt.frontend import onnx
from tvmopt.frontend.onnx import TensorSpec
from tvmopt.recipe import Recipe
from tvmopt.report import Report
from tvmopt.targets import CpuTarget, resolve


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model that can be compressed and compiled.

    Attributes:
        mod: Its graph; "main" takes ``inputs`` and returns ``outputs``.
        name: An identifier, from the file's name.
        sha256: Of the file it came from, in hexadecimal.
        inputs: Names, dtypes and static shapes, in order.
        outputs: Names, dtypes and static shapes, in order.
        report: What passes decided so far.
        compression: What a recipe did to it; None as loaded.
    """

    mod: tvm.IRModule
    name: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    report: Report = field(default_factory=Report)
    compression: Compression | None = None

    def apply(
        self,
        recipe: Recipe | Sequence[Any] | str | Path,
        *,
        calibration: Given | None = None,
        target: CpuTarget | str = "native",
        progress: Progress | None = None,
    ) -> Model:
        """Return this model compressed; this one stays as it is.

        Args:
            recipe: A recipe, its file, its name, or the options of passes in order.
            calibration: Samples of what the model will see, along the first axis: arrays by input
                name, the one input's array, an ``.npz`` file, or checked ``Samples``.
            target: The machine that it will be compiled for: a layer's compression stays where it
                is predicted to be faster there, unless the recipe says otherwise.
            progress: Is told (what is under way, how much is done, how much there is).

        Raises:
            OptionError: The recipe is impossible, names no layer that there is, or the model is
                compressed already.
            DataError: The recipe needs samples and there are none, or they do not fit the model.
            TargetError: The target is unknown.
        """
        report = Report(list(self.report.decisions))
        mod, compression = compress(
            self._uncompressed(),
            self.inputs,
            as_recipe(recipe),
            calibration,
            as_target(target),
            report,
            progress or (lambda *_: None),
        )
        return replace(self, mod=mod, report=report, compression=compression)

    def forecast(
        self,
        recipe: Recipe | Sequence[Any] | str | Path,
        *,
        calibration: Given | None = None,
        target: CpuTarget | str = "native",
    ) -> Compression:
        """Return what ``apply`` would do to each layer and is predicted to bring.

        Nothing is changed, and no sample is needed; those that are given are only checked.

        Raises:
            OptionError: As ``apply``.
            DataError: The samples do not fit the model.
            TargetError: The target is unknown.
        """
        report, chosen = Report(list(self.report.decisions)), as_recipe(recipe)
        if calibration is not None:
            samples_for(chosen, calibration, self.inputs)
        return forecast(self._uncompressed(), chosen, as_target(target), report)

    def _uncompressed(self) -> tvm.IRModule:
        if self.compression is not None:
            raise OptionError(
                f"a model must be compressed once, {self.name!r} is by recipe "
                f"{self.compression.recipe.name!r}; put the passes of both into one recipe"
            )
        return self.mod


def as_recipe(given: Recipe | Sequence[Any] | str | Path) -> Recipe:
    """Return a recipe, read or put together if it is none yet.

    Raises:
        OptionError: It cannot be read, or is impossible.
    """
    if isinstance(given, Recipe):
        return given
    return Recipe.load(given) if isinstance(given, str | Path) else Recipe(passes=tuple(given))


def as_target(given: CpuTarget | str) -> CpuTarget:
    """Return a target, found by name if it is one.

    Raises:
        TargetError: It is unknown or contradicts itself.
    """
    return resolve(given) if isinstance(given, str) else given


def load(path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Model:
    """Load an ONNX file.

    Args:
        path: The ``.onnx`` file; external data lies beside it.
        shapes: Input name to shape, for inputs whose dimensions the file leaves open. An open batch
            dimension, where it is the only open one, is 1.

    Raises:
        ModelError: The file is missing, no ONNX model, or not a valid one.
        ShapeError: A dimension stays open, or ``shapes`` does not fit the model.
        UnsupportedError: Some operators, all of them named, are not compiled.
    """
    imported = onnx.load(path, shapes)
    return Model(
        mod=imported.mod,
        name=imported.name,
        sha256=imported.sha256,
        inputs=imported.inputs,
        outputs=imported.outputs,
    )
