"""Defines the batches that the pipeline yields."""

from typing import Any, NamedTuple


class Batch(NamedTuple):
  """A batch of b rows: NumPy arrays on the host, JAX arrays in a step.

  Attributes:
    index: Rows of the dataset, int32 [b].
    mask: Validity of each row, bool [b]; False for rows that only pad the last batch of an evaluation.
    image: Images, uint8 [b, H, W, C]; None if the dataset resides on the device.
    target: Distributions over the classes, float32 [b, K]; None if the dataset resides on the device.
    view: Numbers of the views to evaluate, int32 [b] (see `fer_jax.data.views`); None for the unchanged images.
  """

  index: Any
  mask: Any
  image: Any = None
  target: Any = None
  view: Any = None
