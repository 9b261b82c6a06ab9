"""What the pipeline yields."""

from typing import Any, NamedTuple


class Batch(NamedTuple):
  """A batch of b rows, as NumPy arrays on the host and jax arrays in a step.

  Attributes:
    index: int32 [b], rows of the dataset.
    mask: bool [b], False for rows that only fill up the last batch of an evaluation.
    image: uint8 [b, H, W, C]; None where the data lives on the device.
    target: float32 [b, K], a distribution over the classes; None where the data lives on the device.
    view: int32 [b], numbers of views (see `fer_jax.data.views`) to be evaluated; None for the images as they are.
  """

  index: Any
  mask: Any
  image: Any = None
  target: Any = None
  view: Any = None
