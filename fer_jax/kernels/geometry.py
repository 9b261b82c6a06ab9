"""Geometry of a convolution or pooling window along one axis."""

from typing import NamedTuple


class Axis(NamedTuple):
  """Sizes of a convolution along one spatial axis: input, kernel and output lengths, stride and padding.

  Attributes:
    length: Length of the input feature map.
    kernel: Number of kernel taps.
    stride: Stride of the kernel.
    padding: Number of zeros before and after the input; negative numbers crop.
    result: Length of the output.
  """

  length: int
  kernel: int
  stride: int
  padding: tuple[int, int]
  result: int

  def tap_slice(self, shift: int) -> slice:
    """Returns the slice of the padded input that kernel tap `shift` is multiplied with, one element per output."""
    return slice(shift, shift + self.stride * (self.result - 1) + 1, self.stride)
