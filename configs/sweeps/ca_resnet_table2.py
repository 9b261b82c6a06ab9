"""Network with coordinate and mixed attention against standard networks on the same data: Li & Pan, table 2.

  python launch/sweep.py configs/sweeps/ca_resnet_table2.py           # the paper's recipe, three seeds; for a GPU
  python launch/sweep.py configs/sweeps/ca_resnet_table2.py:small     # narrow networks, 400 steps, two CPU cores
  python launch/sweep.py configs/sweeps/ca_resnet_table2.py:demo      # built-in faces, a few steps

The paper's first row, a "parallel convolutional network" with 65.6 %, is from another publication and is not described.
"""

from configs.ca_resnet import FILE, NETWORKS, TABLE2
from configs.sweeps import size_of
from configs.sweeps.hsic_baselines import NAMES
from fer_jax.config.sweep import Figure, Sweep

TITLES = {**NAMES, "resnet18": "ResNet-18", "resnet34": "ResNet-34"}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size = size_of(variant)
  ours = "coordinate and mixed attention"
  return Sweep(
    title="Coordinate and mixed attention, and well-known networks",
    citation="Li & Pan, table 2",
    claim="On FER2013's private test set the network with coordinate and mixed attention reaches 73.7 %, 2.6 points "
    "more than the best of the others, which are trained on the same data.",
    candidates=(
      *(size.candidate(TITLES[name], FILE, name, reported=_printed(name)) for name in NETWORKS),
      size.candidate(ours, FILE, reported=_printed("")),
    ),
    figures=(Figure("points", "test accuracy"), Figure("curves", "validation accuracy")),
    reference=ours,
  )


def _printed(name: str) -> dict[str, float]:
  return {"test accuracy": round(TABLE2[name] / 100, 4)}
