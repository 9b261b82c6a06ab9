"""Fusion coefficient of the two channels of Li et al., texture and image, chosen by validation accuracy.

  python launch/sweep.py configs/sweeps/separable_se_fusion.py           # ten folds of each; for a GPU
  python launch/sweep.py configs/sweeps/separable_se_fusion.py:small     # five folds, narrow networks, two CPU cores
  python launch/sweep.py configs/sweeps/separable_se_fusion.py:demo      # minutes, three folds of drawn people

The paper chooses the coefficient by cross-validation, but states neither the candidates nor the result. Here each
candidate is trained on all folds over people, as replicas of one run; the one with the highest mean validation accuracy
is chosen. No person is in both the validation and the training part. A coefficient of 1 uses only the features of the
local binary patterns, 0 only those of the image.
"""

from configs.sweeps import SIZES, size_of
from fer_jax.config.sweep import Candidate, Figure, Sweep

CONFIG = "configs/separable_se.py"
CANDIDATES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Fewer folds and fewer copies per image, so that all folds of five candidates are feasible on two cores.
SIZE_OVERRIDES = {
  "": (),
  "small": ("--config.folds.count=5", "--config.expansion.factor=3"),
  "demo": (*SIZES["demo"].overrides, "--config.folds.count=3", "--config.expansion.factor=2"),
}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`; each run trains all folds."""
  size_of(variant)
  note = "0: the image alone; 1: its local binary patterns alone."
  return Sweep(
    title="Fusion of the two channels",
    citation="Li et al., an improved method of expression recognition by depthwise separable convolution, introduction",
    claim="Two channels complement each other: one for small features, one for the whole. The coefficient of their "
    "fusion is chosen by cross-validation. No figures are printed.",
    candidates=tuple(_candidate(variant, value) for value in CANDIDATES),
    figures=(Figure("lines", "validation accuracy", note), Figure("lines", "test accuracy", note)),
    swept="fusion coefficient",
    choose="validation accuracy",
  )


def _candidate(variant: str, value: float) -> Candidate:
  variants = [word for word in ("drawn" if variant == "demo" else "", variant, "two_channel", "honest") if word]
  return Candidate(
    f"fusion {value:g}",
    f"{CONFIG}:{','.join(variants)}",
    (*SIZE_OVERRIDES[variant], f"--config.model.fusion={value}"),
    value=value,
    series="two channels",
  )
