"""What a two-dimensional convolution is, whichever kernel computes it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvmopt.kernels.epilogue import STORE, Epilogue
from tvmopt.kernels.rows import Rows, pitch_of


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvSite:
    """A two-dimensional convolution, NHWC, with constant weights.

    Attributes:
        batch: Images.
        height: Rows of an input image.
        width: Columns of an input image.
        channels: Input channels.
        out_channels: Output channels.
        kernel: Taps (vertical, horizontal).
        strides: Steps (vertical, horizontal).
        pads: Zeros (top, left, bottom, right).
        dilation: Distance of neighbouring taps (vertical, horizontal).
        groups: Groups of channels that do not see each other.
        planar: Whether the input is NCHW instead, as the graph's own inputs are.
        epilogue: What follows the convolution.
        dtype: Element type of the input: "float32", or "uint8" or "int8" with weights that are
            integers too.
        zero_point: The input's integer that stands for 0; the padding's zeros are of that kind.
        zero_dtype: Type of a zero point that is known at run time alone, "uint8" or "int8"; None
            for others.
        input_rows: Where the channels of the input's pixels lie; None where pixel follows pixel.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    planar: bool = False
    epilogue: Epilogue = STORE
    dtype: str = "float32"
    zero_point: int = 0
    zero_dtype: str | None = None
    input_rows: Rows | None = None

    @property
    def shifted(self) -> bool:
        """Whether another integer than 0 stands for 0, or may."""
        return self.zero_point != 0 or self.zero_dtype is not None

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the padded input."""
        top, left, bottom, right = self.pads
        return self.height + top + bottom, self.width + left + right

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        return (
            (self.padded[0] - spans[0]) // self.strides[0] + 1,
            (self.padded[1] - spans[1]) // self.strides[1] + 1,
        )

    @property
    def pointwise(self) -> bool:
        """Whether every output pixel reads the input pixel at its own place and no other."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def rows(self) -> int:
        """Output pixels of the whole batch: rows of the implicit matrix."""
        return self.batch * self.out_size[0] * self.out_size[1]

    @property
    def group_channels(self) -> int:
        """Input channels that one output channel reads."""
        return self.channels // self.groups

    @property
    def taps(self) -> int:
        """Products of one output element."""
        return self.kernel[0] * self.kernel[1] * self.group_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates, taps in the padding included."""
        return self.rows * self.out_channels * self.taps

    @property
    def pitch(self) -> int:
        """Elements from one input pixel to the next."""
        return pitch_of(self.input_rows, self.channels)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input tensor."""
        n, h, w, c = self.batch, self.height, self.width, self.channels
        return (n, c, h, w) if self.planar else (n, h, w, c)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output tensor."""
        return (self.batch, *self.out_size, self.out_channels)

    @property
    def image_bytes(self) -> tuple[int, int]:
        """Bytes of the input and of the output where both are float32."""
        return 4 * prod(self.input_shape), 4 * prod(self.output_shape)
