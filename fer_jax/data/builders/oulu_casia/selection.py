"""The images that each configuration of Oulu-CASIA takes, and the number of images of each class."""

import dataclasses
from collections.abc import Mapping

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise")
NEUTRAL = "neutral"
PEOPLE = 80

# Table 2 of the paper on a residual network of depthwise separable convolutions with squeeze-excitation. It has 2,864
# frames of the six expressions from 480 sequences (5.97 per sequence), and 8,016 neutral frames.
TABLE_2 = {"angry": 476, "disgust": 462, "fear": 505, "happy": 484, "sad": 453, "surprise": 484, NEUTRAL: 8016}


@dataclasses.dataclass(frozen=True)
class Selection:
  """Choice of camera, light, frames and classes.

  Attributes:
    camera: Camera, "VL" (visible light) or "NI" (near infrared).
    light: Illumination, "Strong", "Weak" or "Dark".
    last_frames: Number of frames at the end of a sequence that have the class of the sequence.
    neutral: Frames of a sequence that have the class neutral: "none", the "first", or all that are "earlier" than the
      last `last_frames`.
    reported: Number of images of each class in a paper with this selection.
  """

  camera: str
  light: str
  last_frames: int = 3
  neutral: str = "none"
  reported: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Class names in the order of the labels."""
    return EXPRESSIONS if self.neutral == "none" else (*EXPRESSIONS, NEUTRAL)

  @property
  def counts(self) -> dict[str, int]:
    """Number of images of each class in the published dataset, for classes with a fixed number per sequence.

    With neutral="earlier", the number of neutral frames depends on the lengths of the sequences and is omitted.
    """
    counts = dict.fromkeys(EXPRESSIONS, PEOPLE * self.last_frames)
    return counts | ({NEUTRAL: PEOPLE * len(EXPRESSIONS)} if self.neutral == "first" else {})

  @property
  def needed_frames(self) -> int:
    """Minimum number of frames of a sequence: the last frames and, if the class exists, one neutral frame."""
    return self.last_frames + (self.neutral != "none")


DEFAULT = Selection("VL", "Strong")
WITH_NEUTRAL = Selection("VL", "Strong", neutral="first")
PAPER = Selection("VL", "Strong", 6, "earlier", TABLE_2)
OTHERS = {
  f"{camera}_{light}".lower(): Selection(camera, light)
  for camera, light in (("VL", "Weak"), ("VL", "Dark"), ("NI", "Strong"), ("NI", "Weak"), ("NI", "Dark"))
}
