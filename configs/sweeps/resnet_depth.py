"""Depth, with and without shortcut branches: Lu et al., deep residual network on KDEF and CK+, figure 9 and table 4.

  python launch/sweep.py configs/sweeps/resnet_depth.py           # ten folds of each, 128 pixels; for a GPU
  python launch/sweep.py configs/sweeps/resnet_depth.py:small     # three depths, two CPU cores
  python launch/sweep.py configs/sweeps/resnet_depth.py:demo      # minutes, drawn people

Half of the runs use folds over images, as in the paper. The other half use folds over people, which measures the
performance on unseen people; the paper has no figures for these.
"""

from configs.resnet import FIG9, TABLE4, TABLE4_DEPTH
from configs.sweeps import size_of
from fer_jax.config.sweep import Candidate, Figure, Sweep

CONFIG = "configs/resnet.py"
UNITS = {"images": "image folds", "subjects": "subject folds"}
DEPTHS = {"": tuple(FIG9["residual"]), "small": (8, 14, 20), "demo": (8, 14)}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`; each run trains all folds."""
  size_of(variant)
  depths = DEPTHS[variant]
  candidates = {unit: [_candidate(variant, kind, depth, unit) for kind in FIG9 for depth in depths] for unit in UNITS}
  deepest = tuple(_name("residual", depths[-1], unit) for unit in UNITS)
  return Sweep(
    title="Depth, with shortcut branches and without",
    citation="Lu, Zhu, Hao & Yan, figure 9 and table 4",
    claim="With shortcut branches accuracy rises with depth, to 90.79 % at 74 layers. Without, it falls from 38 layers "
    "on, and at 20 layers the two are equal.",
    candidates=tuple(candidate for of in candidates.values() for candidate in of),
    figures=(
      *(
        Figure(
          "lines",
          "test accuracy",
          title=f"Test accuracy, {title}",
          note="Split as in the paper." if unit == "images" else "No person is in both training and test.",
          candidates=tuple(candidate.name for candidate in candidates[unit]),
        )
        for unit, title in UNITS.items()
      ),
      Figure("classes", "recall", "Deepest network, over the test images of all folds.", candidates=deepest),
    ),
    swept="layers",
  )


def _name(kind: str, depth: int, unit: str) -> str:
  return f"{kind} {depth}, {UNITS[unit]}"


def _candidate(variant: str, kind: str, depth: int, unit: str) -> Candidate:
  printed = not variant and unit == "images"
  in_table4 = printed and (kind, depth) == ("residual", TABLE4_DEPTH)
  variants = [word for word in (variant, unit, f"depth={depth}", f"kind={kind}") if word]
  return Candidate(
    _name(kind, depth, unit),
    f"{CONFIG}:{','.join(variants)}",
    value=depth,
    series=kind,
    reported={"test accuracy": round(FIG9[kind][depth] / 100, 4)} if printed else {},
    by_class={name: round(recall / 100, 4) for name, recall in TABLE4.items()} if in_table4 else {},
  )
