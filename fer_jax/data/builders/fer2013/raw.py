"""The common result of the readers of FER2013's raw forms."""

import dataclasses

import numpy as np

SIZE = 48
CLASS_NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@dataclasses.dataclass(frozen=True)
class Raw:
  """A copy of FER2013 with N rows, in the order of its source.

  Attributes:
    image: Grey images, uint8 [N, 48, 48].
    label: Indices into CLASS_NAMES, int64 [N].
    split: Split of each row, str array of shape [N]: train, validation (the source's PublicTest) or test (its
      PrivateTest).
    origin: JSON-compatible description of the source: `form`, `path`, `sha256`; `md5` for a CSV file;
      `ferplus_sha256` if FER+ was found.
    warnings: Differences between this copy and the official dataset, one line each.
    votes: FER+ votes, uint8 [N, 10], with the columns `ferplus.COLUMNS`; None if FER+ was not found.
  """

  image: np.ndarray
  label: np.ndarray
  split: np.ndarray
  origin: dict[str, str]
  warnings: tuple[str, ...] = ()
  votes: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.label)
