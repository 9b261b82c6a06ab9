"""Effect of each part of the default of configs/hsic.py: every row changes one of them.

  python launch/sweep.py configs/sweeps/hsic_ablation.py:small    # 10 epochs each, for two CPU cores

The default and back-propagation are runs of hsic_gap.py, if both sweeps have the same workdir.
"""

from configs.sweeps.hsic_gap import BACKPROP, ten_epochs
from fer_jax.config.sweep import Figure, Sweep

DEFAULT = "default"
# Changed part -> keys of the objective.
CHANGES: dict[str, dict[str, int | float | str]] = {
  "no learned kernels": {"head_layers": 0},
  "learned kernels of one layer": {"head_layers": 1},
  "rows of 6x6 cells": {"grid": 6},
  "all positions": {"sampling": 1},
  "every third position": {"sampling": 3},
  "units of a layer": {"unit": "layer", "group": "triple"},
  "local losses in two blocks": {"classifier_blocks": 2},
  "local losses in all blocks": {"classifier_blocks": 1},
  "local losses in all blocks and the pyramid": {"classifier_blocks": 0},
  "nHSIC": {"measure": "nhsic", "epsilon": 0.01},
}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`, with one seed; `small` takes 10 epochs."""
  size = ten_epochs(variant)._replace(seeds=(0,))
  objective = "--config.phases.bottleneck.objective"
  return Sweep(
    title="The HSIC bottleneck, part by part",
    citation="the default of configs/hsic.py; one seed",
    claim="None: the parts are not the paper's.",
    candidates=(
      size.candidate(DEFAULT),
      *(
        size.candidate(name, overrides=tuple(f"{objective}.{key}={value}" for key, value in keys.items()))
        for name, keys in CHANGES.items()
      ),
      size.candidate(
        "second phase of 5 %",
        overrides=("--config.phases.bottleneck.duration=0.95", "--config.phases.deepening.duration=0.05"),
      ),
      size.candidate("learning rate 0.01", overrides=("--config.phases.bottleneck.optimizer.learning_rate=0.01",)),
      size.candidate(BACKPROP, variant="backprop"),
      # What the local losses are worth. The first block keeps its random parameters and initial batch statistics.
      size.candidate(
        "first block random",
        variant="backprop",
        overrides=("--config.phases.backprop.train=('block[23]*', 'pyramid*', 'classifier')",),
      ),
    ),
    figures=(Figure("curves", "validation accuracy"), Figure("points", "validation accuracy")),
    reference=DEFAULT,
  )
