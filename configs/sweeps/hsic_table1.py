"""Seconds per step, parameters and accuracy: Han et al. 2023 (doi:10.12677/sea.2023.122019), table 1.

python -m fer_jax.apps.bench --what=table1 --config=configs/hsic.py --out=results/table1.json    # the seconds
python launch/sweep.py configs/sweeps/hsic_table1.py
"""

from configs.sweeps import size_of
from fer_jax.config.sweep import Figure, Sweep

# As printed: seconds per step on an RTX 2080 at batch 128, parameters, test accuracy.
PRINTED = {
  "alexnet": (0.243178, 60e6, 0.89),
  "bn_inception": (0.565114, 11e6, 0.93),
  "resnet50": (0.180212, 24e6, 0.95),
  "hsic": (0.049286, 7e6, 0.97),
}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size = size_of(variant)
  printed = {
    name: dict(zip(("seconds a step", "parameters", "test accuracy"), values, strict=True))
    for name, values in PRINTED.items()
  }
  return Sweep(
    title="Seconds a step, parameters, accuracy",
    citation="Han et al. 2023, doi:10.12677/sea.2023.122019, table 1",
    claim="The dense network trained by the HSIC bottleneck takes a step in a quarter of ResNet-50's time, with a "
    "third of its parameters, and is the most accurate.",
    candidates=(
      *(
        size.candidate(title, "configs/baselines.py", name, reported=printed[name], timing=f"{name}, backprop")
        for name, title in (("alexnet", "AlexNet"), ("bn_inception", "Inception v2"), ("resnet50", "ResNet-50"))
      ),
      size.candidate("dense network, HSIC bottleneck", reported=printed["hsic"], timing="hsic_dense, hsic_bottleneck"),
    ),
    figures=(Figure("points", "test accuracy"),),
    timings="results/table1.json",
  )
