"""Accuracy of HSIC bottleneck and back-propagation by processor time and by memory: same network and augmentation.

  python launch/sweep.py configs/sweeps/hsic_cost.py:small                       # for two CPU cores
  python -m fer_jax.apps.bench --what=objectives --out=results/objectives_small.json     # memory of a step

Runs of 1, 3 and 10 epochs, and runs of 8 minutes of processor time. Back-propagation also has its own means of saving
memory: checkpoints of blocks, and gradients accumulated over four parts of a batch.
"""

from configs.sweeps import size_of
from configs.sweeps.hsic_gap import TEN_EPOCHS
from fer_jax.config.sweep import Candidate, Figure, Sweep

_OBJECTIVE = "--config.phases.backprop.objective"
_EPOCH = ("--config.evaluate_every=1 epoch", "--config.clock=cpu")
DURATIONS = {
  "1 epoch": ("--config.duration=1 epoch", *_EPOCH),
  "3 epochs": ("--config.duration=3 epochs", *_EPOCH),
  "10 epochs": TEN_EPOCHS,  # shared with hsic_gap.py, if both sweeps have the same workdir
  "8 minutes": ("--config.duration=100 epochs", "--config.budget_minutes=8", *_EPOCH),
}
# Name -> variant of the config, overrides, row of the benchmark of memory, durations.
OBJECTIVES = {
  "HSIC": ("", (), "hsic_bottleneck, as configured", tuple(DURATIONS)),
  "back-propagation": ("backprop", (), "backprop", tuple(DURATIONS)),
  "HSIC, layer by layer": ("layerwise", (), "hsic_bottleneck, group=triple", ("10 epochs", "8 minutes")),
  "checkpoints": ("backprop", (f"{_OBJECTIVE}.checkpoint=True",), "backprop, checkpoint", ("8 minutes",)),
  "four parts": ("backprop", (f"{_OBJECTIVE}.accumulation=4",), "backprop, accumulation=4", ("8 minutes",)),
}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`, with one seed; `demo` has its own number of steps."""
  size = size_of(variant)._replace(seeds=(0,))

  def candidate(name: str, duration: str) -> Candidate:
    variants, overrides, timing, _ = OBJECTIVES[name]
    sized = size if variant == "demo" else size._replace(overrides=DURATIONS[duration])
    return sized.candidate(f"{name}, {duration}", variant=variants, overrides=overrides, series=name, timing=timing)

  return Sweep(
    title="Accuracy by processor time and memory",
    citation="same network, data and augmentation; one seed",
    claim="None: the paper has no such comparison.",
    candidates=tuple(
      candidate(name, duration) for name, (*_, durations) in OBJECTIVES.items() for duration in durations
    ),
    figures=(
      Figure("scatter", "test accuracy", over="minutes of training"),
      Figure("scatter", "test accuracy", over="temporary megabytes"),
    ),
    timings="results/objectives_small.json",
    shown=("minutes of training", "temporary megabytes"),
  )
