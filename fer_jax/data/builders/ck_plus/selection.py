"""Which frames of a sequence a configuration of CK+ takes, and how many there are of each class."""

import dataclasses
from collections.abc import Mapping

CONTEMPT, NEUTRAL = "contempt", "neutral"


@dataclasses.dataclass(frozen=True)
class Selection:
  """A choice of frames.

  Attributes:
    class_names: in the order of the labels; sequences of other classes are left out.
    last_frames: how many frames of a sequence, from its end, have the sequence's class.
    counts: pictures of each class in the published dataset.
    reported: pictures of each class in a paper that takes these classes, of whose frames it says nothing.
    reported_people: of how many people.
  """

  class_names: tuple[str, ...]
  last_frames: int
  counts: Mapping[str, int]
  reported: Mapping[str, int] = dataclasses.field(default_factory=dict)
  reported_people: int = 0

  @property
  def neutral(self) -> bool:
    """Whether the first frame of a sequence is a picture of the class neutral."""
    return NEUTRAL in self.class_names


_SEQUENCES = {"angry": 45, "disgust": 59, "fear": 25, "happy": 69, "sad": 28, "surprise": 83}
# Table 2 of the paper on a residual network of depthwise separable convolutions with squeeze-excitation.
_TABLE_2 = {
  **{"angry": 95, "disgust": 79, "fear": 72, "happy": 108},
  **{"sad": 110, "surprise": 108, NEUTRAL: 228},
}
_THREE_FRAMES = {name: 3 * count for name, count in _SEQUENCES.items()}

DEFAULT = Selection((*_SEQUENCES, CONTEMPT), 3, {**_THREE_FRAMES, CONTEMPT: 54})
WITH_NEUTRAL = Selection((*_SEQUENCES, NEUTRAL), 3, {**_THREE_FRAMES, NEUTRAL: 309}, _TABLE_2, reported_people=70)
LAST = Selection(tuple(_SEQUENCES), 1, _SEQUENCES)
