"""Separable network against standard networks on CK+: accuracy, parameters, speed. Li et al., table 5.

  python -m fer_jax.apps.bench --what=inference --config=configs/separable_se.py --out=results/inference.json
  python launch/sweep.py configs/sweeps/separable_se_table5.py           # CK+, three seeds; for a GPU
  python launch/sweep.py configs/sweeps/separable_se_table5.py:small     # narrow networks, two CPU cores
  python launch/sweep.py configs/sweeps/separable_se_table5.py:demo      # minutes, drawn people

All networks are trained in the same way on the same rows, split as in the paper. The paper specifies neither its
Inception version (its parameters are a third of Inception v2's) nor whether its networks were trained in the same way;
"parallel CNN" and FaceNet2ExpNet are from other publications. Mini-Xception, which is small and common for faces, is
not in the paper. The first command measures the seconds for 1,500 images, with all networks interleaved in one process;
only their ratios are comparable with the paper.
"""

from configs.separable_se import FILE, TABLE4, TABLE5
from configs.sweeps import SIZES, size_of
from configs.sweeps.hsic_baselines import NAMES
from fer_jax.config.sweep import Candidate, Figure, Sweep

# Variant -> title, and figures of table 5 other than accuracy: seconds for 1,500 samples, parameters.
NETWORKS: dict[str, tuple[str, dict[str, float]]] = {
  "bn_inception": (NAMES["bn_inception"], {"seconds for 1,500 images": 16.37, "parameters": 3_807_300}),
  "xception": ("Xception", {"seconds for 1,500 images": 114.75, "parameters": 33_452_455}),
  "mini_xception": (NAMES["mini_xception"], {}),
  "table1": ("separable, without shortcut branches", {}),
  "": ("separable, squeeze and excitation", {"seconds for 1,500 images": 19.94, "parameters": 5_835_265}),
}


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size_of(variant)
  return Sweep(
    title="The separable network and known ones",
    citation="Li et al., depthwise separable convolution with squeeze and excitation, table 5",
    claim="The separable network is the most accurate on CK+, at a sixth of Xception's parameters and time.",
    candidates=tuple(_candidate(variant, network) for network in NETWORKS),
    figures=(Figure("points", "test accuracy"), Figure("curves", "validation accuracy")),
    timings="results/inference.json",
    reference=NETWORKS[""][0],
  )


def _candidate(variant: str, network: str) -> Candidate:
  size = SIZES[variant]
  title, printed = NETWORKS[network]
  accuracy = TABLE5.get(network) if network else TABLE4["ck_plus"]
  overrides = (*size.overrides, "--config.expansion.factor=2") if variant == "demo" else ()
  variants = [word for word in ("drawn,paper" if variant == "demo" else "", network, variant) if word]
  return Candidate(
    title,
    f"{FILE}:{','.join(variants)}" if variants else FILE,
    overrides,
    size.seeds,
    reported={**({"test accuracy": round(accuracy / 100, 4)} if accuracy else {}), **printed},
    timing=network or "separable_se",
  )
