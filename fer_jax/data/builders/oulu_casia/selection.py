"""Which pictures a configuration of Oulu-CASIA takes, and how many there are of each class."""

import dataclasses
from collections.abc import Mapping

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise")
NEUTRAL = "neutral"
PEOPLE = 80

# Table 2 of the paper on a residual network of depthwise separable convolutions with squeeze-excitation. It has 2,864
# frames of the six expressions, where there are 480 sequences (5.97 of each), and 8,016 neutral ones.
TABLE_2 = {
  **{"angry": 476, "disgust": 462, "fear": 505, "happy": 484},
  **{"sad": 453, "surprise": 484, NEUTRAL: 8016},
}


@dataclasses.dataclass(frozen=True)
class Selection:
  """A choice of pictures.

  Attributes:
    camera: "VL" (visible light) or "NI" (near infrared).
    light: "Strong", "Weak" or "Dark".
    last_frames: how many frames of a sequence, from its end, have the sequence's class.
    neutral: which frames of a sequence are pictures of the class neutral: "none"; the "first"; or all "earlier" ones
      than those of its class.
    reported: pictures of each class in a paper that takes these.
  """

  camera: str
  light: str
  last_frames: int = 3
  neutral: str = "none"
  reported: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @property
  def class_names(self) -> tuple[str, ...]:
    """The classes in the order of the labels."""
    return EXPRESSIONS if self.neutral == "none" else (*EXPRESSIONS, NEUTRAL)

  @property
  def counts(self) -> dict[str, int]:
    """Pictures of each class in the published dataset, as far as they follow from the number of its sequences."""
    counts = dict.fromkeys(EXPRESSIONS, PEOPLE * self.last_frames)
    return counts | ({NEUTRAL: PEOPLE * len(EXPRESSIONS)} if self.neutral == "first" else {})

  @property
  def needed_frames(self) -> int:
    """How many frames a sequence has at least; every one begins with a neutral face."""
    return self.last_frames + (self.neutral != "none")


DEFAULT = Selection("VL", "Strong")
WITH_NEUTRAL = Selection("VL", "Strong", neutral="first")
PAPER = Selection("VL", "Strong", 6, "earlier", TABLE_2)
OTHERS = {
  f"{camera}_{light}".lower(): Selection(camera, light)
  for camera, light in (("VL", "Weak"), ("VL", "Dark"), ("NI", "Strong"), ("NI", "Weak"), ("NI", "Dark"))
}
