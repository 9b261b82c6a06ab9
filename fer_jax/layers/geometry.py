"""How the kernel of a convolution walks along an axis of its maps."""

from typing import NamedTuple


class Axis(NamedTuple):
  """A spatial axis: its length in the maps, the kernel and the result, and how the kernel walks along it.

  Attributes:
    length: of the maps.
    kernel: places.
    stride: of the kernel.
    padding: zeros before and behind the maps; negative numbers crop.
    result: length of the result.
  """

  length: int
  kernel: int
  stride: int
  padding: tuple[int, int]
  result: int

  def read(self, shift: int) -> slice:
    """Returns the places of the padded maps that meet place `shift` of the kernel, one for each result."""
    return slice(shift, shift + self.stride * (self.result - 1) + 1, self.stride)
