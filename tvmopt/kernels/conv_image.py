"""The input of a convolution as its loops read it: NHWC, padded, its taps in contiguous runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.vector import Expr, Vector, bind, cast, loop


class Image:
    """The input as the loops read it: NHWC, padded.

    Attributes:
        site: The convolution.
        dtype: Type of the elements that the loops read.
        fill: What stands for 0 in the padding.
        slack: Elements behind the last that the loops may read.
        copied: Whether the loops read a copy: where there is padding, or on demand.
        step: Elements from one pixel to the next, as the loops read them.
        pitch: Elements from one line to the next.
    """

    def __init__(
        self,
        site: ConvSite,
        dtype: str = "float32",
        fill: int = 0,
        slack: int = 0,
        *,
        copied: bool = False,
    ) -> None:
        self.site, self.dtype, self.fill, self.slack = site, dtype, fill, slack
        self.height, self.width = site.padded
        self.copied = any(site.pads) or site.planar or copied
        self._zero: Expr = tirx.const(fill, dtype)
        self.step = site.channels if self.copied else site.pitch
        self.pitch = self.width * self.step

    @property
    def size(self) -> int:
        """Elements of the copy."""
        return self.site.batch * self.height * self.pitch + self.slack

    @property
    def scratch_bytes(self) -> int:
        """Workspace for the padded copy, bytes."""
        return self.size * np.dtype(self.dtype).itemsize if self.copied else 0

    @property
    def line(self) -> int | None:
        """Output pixels of a line, or None where pixel follows pixel through the whole batch."""
        return None if self.site.pointwise else self.site.out_size[1]

    def copy(self, x: tirx.Buffer, *, parallel: bool, zero: Expr | None = None) -> tirx.Buffer:
        """Emit the padded copy and return it, or the input itself where none is needed.

        Args:
            x: The input.
            parallel: Whether threads share the lines out.
            zero: What stands for 0 where that is known at run time alone; None for ``fill``.
        """
        if not self.copied:
            return x
        if zero is not None:
            self._zero = bind(cast(zero, self.dtype))
        site, (top, left, _, right) = self.site, self.site.pads
        out = T.alloc_buffer((self.size,), self.dtype)
        with loop(site.batch * self.height, parallel=parallel) as line:
            start = bind(line * self.pitch)
            n, h = bind(line // self.height), bind(line % self.height - top)
            with T.If(tirx.all(h >= 0, h < site.height)):
                with T.Then():
                    self._fill(out, start, left * site.channels)
                    self._copy_row(x, out, n, h, start + left * site.channels)
                    end = start + (left + site.width) * site.channels
                    self._fill(out, end, right * site.channels)
                with T.Else():
                    self._fill(out, start, self.pitch)
        return out

    def _copy_row(self, x: tirx.Buffer, out: tirx.Buffer, n: Expr, h: Expr, start: Expr) -> None:
        site = self.site
        if not site.planar:
            row = bind((n * site.height + h) * site.width * site.pitch)
            if site.input_rows is None:
                _copy(x, out, row, start, site.width * site.channels)
                return
            with T.serial(site.width) as w:
                _copy(x, out, row + w * site.pitch, start + w * site.channels, site.channels)
            return
        with T.serial(site.width) as w:
            for c in range(site.channels):
                value = x[((n * site.channels + c) * site.height + h) * site.width + w]
                T.buffer_store(out, cast(value, self.dtype), [start + w * site.channels + c])

    def _fill(self, out: tirx.Buffer, start: Expr, count: int) -> None:
        """Emit what stands for zeros."""
        with T.serial(count) as i:
            T.buffer_store(out, self._zero, [start + i])

    def pixels(self, row: Expr, count: int, channel: Expr) -> list[Expr]:
        """Return where the first tap of each of ``count`` output pixels from ``row`` lies."""
        site, (out_h, out_w) = self.site, self.site.out_size
        sh, sw = site.strides
        if site.pointwise:
            return [(row + i) * self.step + channel for i in range(count)]

        def place(r: Expr) -> Expr:
            image = r // (out_h * out_w) * (self.height * self.pitch)
            line = r % (out_h * out_w) // out_w * (sh * self.pitch)
            return image + line + r % out_w * (sw * self.step) + channel

        if out_w % count == 0:  # a tile never crosses the end of a line
            first = bind(place(row))
            return [first + i * sw * self.step for i in range(count)]
        return [bind(place(row + i)) for i in range(count)]

    def runs(self, emit: Callable[[Expr, Expr, int], None]) -> None:
        """Emit the loops over taps, each contiguous run of the input by one call of ``emit``.

        ``emit`` gets the run's offset from the pixel's first tap, its first tap and its length.
        """
        lines, run = self._lines()
        with loop(lines[0][0]) as i, loop(lines[1][0]) as j:
            emit(
                bind(i * lines[0][1] + j * lines[1][1]),
                bind((i * lines[1][0] + j) * run),
                run,
            )

    def starts(self) -> np.ndarray:
        """Return each run's offset from the pixel's first tap, in order, elements."""
        ((rows, pitch), (columns, step)), _ = self._lines()
        return (np.arange(rows)[:, None] * pitch + np.arange(columns) * step).reshape(-1)

    def _lines(self) -> tuple[list[tuple[int, int]], int]:
        """Return count and pitch of the two loops over runs, and the length of a run."""
        site, (kh, kw), (dh, dw) = self.site, self.site.kernel, self.site.dilation
        dense = dw == 1 and site.groups == 1 and self.step == site.channels
        whole_line = kw == 1 or dense
        run = kw * site.group_channels if whole_line else site.group_channels
        return [(kh, dh * self.pitch), (1 if whole_line else kw, dw * self.step)], run


def _copy(source: tirx.Buffer, out: tirx.Buffer, at: Expr, start: Expr, count: int) -> None:
    """Emit a copy, sixteen elements at a time, the last ones overlapping."""
    lanes = min(count, 16)
    vector = Vector(lanes)
    with T.serial(-(-count // lanes)) as i:
        place = i * lanes if count % lanes == 0 else bind(tirx.min(i * lanes, count - lanes))
        vector.store(out, cast(vector.load(source, at + place), str(out.dtype)), start + place)
