"""Networks of the five papers and standard ones on FER2013, each with 30 minutes of processor time.

  python launch/sweep.py configs/sweeps/fer2013_league.py             # on two idle CPU cores, 15 minutes per network
  python launch/sweep.py configs/sweeps/fer2013_league.py:demo        # built-in faces, a few steps
  python -m fer_jax.apps.bench --what=inference --config=configs/fer2013.py:league --out=results/fer2013_networks.json

The last command measures multiply-adds and latency; the table reads them from its output file. The default size and
`small` are identical.
"""

from configs.fer2013 import DEFAULT, FILE, NETWORKS
from configs.sweeps import SIZES, size_of
from fer_jax.config.sweep import Candidate, Figure, Sweep


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  variants = "league,demo" if size_of(variant) == SIZES["demo"] else "league"
  configs = {name: f"{FILE}:{variants}" if name == DEFAULT else f"{FILE}:{variants},{name}" for name in NETWORKS}
  return Sweep(
    title="Networks on FER2013 at equal cost",
    citation="one recipe, 30 minutes of processor time for each network, one seed",
    claim="None: each paper uses a different recipe for its network.",
    candidates=tuple(Candidate(name, config, timing=name) for name, config in configs.items()),
    figures=(
      Figure("scatter", "test accuracy", over="seconds an epoch"),
      Figure("points", "test accuracy"),
      Figure("curves", "validation accuracy"),
    ),
    timings="results/fer2013_networks.json",
    shown=("seconds an epoch", "multiply-adds", "milliseconds for an image"),
  )
