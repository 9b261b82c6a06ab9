"""Facial action units (AUs) and the emotions that they compose.

The sets of units are those of EMFACS (Friesen & Ekman, "EMFACS-7: Emotional Facial Action Coding System", 1983), the
part of the Facial Action Coding System (Ekman, Friesen & Hager, 2002) that covers emotions.
"""

import types
from collections.abc import Mapping

import numpy as np

ACTION_UNITS: Mapping[int, str] = types.MappingProxyType(
  {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    12: "lip corner puller",
    15: "lip corner depressor",
    16: "lower lip depressor",
    20: "lip stretcher",
    23: "lip tightener",
    26: "jaw drop",
  }
)

EXPRESSIONS: Mapping[str, tuple[int, ...]] = types.MappingProxyType(
  {
    "angry": (4, 5, 7, 23),
    "disgust": (9, 15, 16),
    "fear": (1, 2, 4, 5, 7, 20, 26),
    "happy": (6, 12),
    "sad": (1, 4, 15),
    "surprise": (1, 2, 5, 26),
    "neutral": (),
  }
)
"""Action units of each class, in the order of the labels."""

ONE_SIDED: Mapping[str, tuple[int, ...]] = types.MappingProxyType({"contempt": (12,)})
"""Action units of the expressions of one half of the face, which are an eighth class in some datasets."""

# Range of the intensity of an expression's units; probability and maximum intensity of an unrelated ("stray") unit.
WEAKEST, STRONGEST = 0.5, 1.0
STRAY_PROBABILITY, STRAY_STRONGEST = 0.5, 0.25


def sample_action_units(rng: np.random.Generator, expression: str) -> dict[int, float]:
  """Samples the intensities of the action units in one image of an expression.

  The units of the expression share one strength with small individual deviations, like the muscles of one emotion.
  With probability STRAY_PROBABILITY, one unrelated unit is active too, weaker than any unit of an expression.

  Args:
    rng: Random number generator.
    expression: Name of the expression, a key of EXPRESSIONS or ONE_SIDED.

  Returns:
    The intensity of each active unit, in (0, 1].
  """
  strength = rng.uniform(WEAKEST, STRONGEST)
  expression_units = ONE_SIDED[expression] if expression in ONE_SIDED else EXPRESSIONS[expression]
  intensities = np.clip(strength + rng.uniform(-0.15, 0.15, len(expression_units)), WEAKEST, STRONGEST)
  units = dict(zip(expression_units, intensities.tolist(), strict=True))
  if rng.random() < STRAY_PROBABILITY:
    stray = int(rng.choice([unit for unit in ACTION_UNITS if unit not in expression_units]))
    units[stray] = float(rng.uniform(0.05, STRAY_STRONGEST))
  return units
