"""The frames that each configuration of CK+ takes from a sequence, and the number of images of each class."""

import dataclasses
from collections.abc import Mapping

CONTEMPT, NEUTRAL = "contempt", "neutral"


@dataclasses.dataclass(frozen=True)
class Selection:
  """Choice of frames and classes.

  Attributes:
    class_names: Classes in the order of the labels; sequences of other classes are left out.
    last_frames: Number of frames at the end of a sequence that have the class of the sequence.
    counts: Number of images of each class in the published dataset.
    reported: Number of images of each class in a paper with these classes; the paper does not specify the frames.
    reported_people: Number of people in that paper.
  """

  class_names: tuple[str, ...]
  last_frames: int
  counts: Mapping[str, int]
  reported: Mapping[str, int] = dataclasses.field(default_factory=dict)
  reported_people: int = 0

  @property
  def neutral(self) -> bool:
    """Whether the first frame of a sequence is an image of the class neutral."""
    return NEUTRAL in self.class_names


_SEQUENCES = {"angry": 45, "disgust": 59, "fear": 25, "happy": 69, "sad": 28, "surprise": 83}
# Images of each class in table 2 of the paper on a residual network of depthwise separable convolutions with
# squeeze-excitation.
_TABLE_2 = {"angry": 95, "disgust": 79, "fear": 72, "happy": 108, "sad": 110, "surprise": 108, NEUTRAL: 228}
_THREE_FRAMES = {name: 3 * count for name, count in _SEQUENCES.items()}

DEFAULT = Selection((*_SEQUENCES, CONTEMPT), 3, {**_THREE_FRAMES, CONTEMPT: 54})
WITH_NEUTRAL = Selection((*_SEQUENCES, NEUTRAL), 3, {**_THREE_FRAMES, NEUTRAL: 309}, _TABLE_2, reported_people=70)
LAST = Selection(tuple(_SEQUENCES), 1, _SEQUENCES)
