"""What each reader of FER2013 returns, whichever raw form it read."""

import dataclasses

import numpy as np

SIZE = 48
CLASS_NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@dataclasses.dataclass(frozen=True)
class Raw:
  """FER2013 as it was found, in the order of its source. Let N be its rows.

  Attributes:
    image: uint8 [N, 48, 48], grey.
    label: int64 [N], positions in CLASS_NAMES.
    split: str [N]: train, validation (the source's PublicTest) or test (its PrivateTest).
    origin: where the data came from, as JSON: `form`, `path`, `sha256` and, of a CSV file, `md5`;
      `ferplus_sha256` where FER+ was found.
    warnings: what is unusual about this copy, a line each.
    votes: uint8 [N, 10], FER+ votes in the columns of `ferplus.COLUMNS`; None where FER+ was not found.
  """

  image: np.ndarray
  label: np.ndarray
  split: np.ndarray
  origin: dict[str, str]
  warnings: tuple[str, ...] = ()
  votes: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.label)
