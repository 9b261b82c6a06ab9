"""What a dataset is once it is prepared: a few arrays, decoded and resized once, memory-mapped afterwards."""

import dataclasses

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Arrays:
  """A whole dataset. Let N be its examples, H, W, C an image's height, width and channels, K the classes.

  Attributes:
    image: uint8 [N, H, W, C].
    label: int32 [N], the class of each example.
    subject: str [N], the person in the picture; "" where the dataset does not say.
    group: int32 [N]; frames of one sequence, or exact duplicates, share a group.
    split: str [N], each one of SPLITS.
    class_names: K names, in the order of the labels.
    soft_label: float32 [N, K], rows that sum to 1 (annotators' votes); None where labels are hard.
    notes: what a user should know about how the arrays came about (rows left out and why, say).
  """

  image: np.ndarray
  label: np.ndarray
  subject: np.ndarray
  group: np.ndarray
  split: np.ndarray
  class_names: tuple[str, ...]
  soft_label: np.ndarray | None = None
  notes: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.label)

  @property
  def num_classes(self) -> int:
    """K."""
    return len(self.class_names)

  def rows(self, split: str) -> np.ndarray:
    """Returns the positions, int64 [n], of a split's examples in dataset order."""
    return np.flatnonzero(self.split == split)
