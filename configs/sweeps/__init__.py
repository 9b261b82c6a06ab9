"""Sweeps, one file per experiment of a paper; `python launch/sweep.py configs/sweeps/FILE.py:VARIANT` runs one.

Each file defines `get_sweep(variant)`. All have the same three variants, the keys of SIZES.
"""

from typing import Any, NamedTuple

from fer_jax.config.sweep import Candidate


class Size(NamedTuple):
  """Size of the networks and duration of the runs of a sweep.

  Attributes:
    variant: Variant of the configs, such as "small".
    overrides: Command-line overrides of the configs.
    seeds: Seeds of each run.
  """

  variant: str
  overrides: tuple[str, ...]
  seeds: tuple[int, ...]

  def candidate(
    self, name: str, config: str = "configs/hsic.py", variant: str = "", overrides: tuple[str, ...] = (), **fields: Any
  ) -> Candidate:
    """Returns one configuration of a sweep at this size.

    Args:
      name: Name in tables and figures.
      config: Path of the config.
      variant: Variants of the config, in addition to that of the size.
      overrides: Command-line overrides, in addition to those of the size.
      **fields: Further fields of the `Candidate`, such as `value` and `reported`.
    """
    variants = ",".join(part for part in (self.variant, variant) if part)
    source = f"{config}:{variants}" if variants else config
    return Candidate(name, source, (*self.overrides, *overrides), self.seeds, **fields)


SIZES = {
  # As printed: 10,000 steps; for a GPU.
  "": Size("", (), (0, 1, 2)),
  # Small networks, for two CPU cores: a few minutes per run, limited by --config.budget_minutes.
  "small": Size("small", ("--config.duration=400 steps", "--config.evaluate_every=50 steps"), (0,)),
  # Built-in faces and a few steps, to test that the sweep runs.
  "demo": Size(
    "demo",
    ("--config.duration=12 steps", "--config.evaluate_every=3 steps", "--config.log_every=1 steps"),
    (0,),
  ),
}


def size_of(variant: str) -> Size:
  """Returns the size of a variant; raises ValueError if there is no such variant."""
  if variant not in SIZES:
    raise ValueError(f"no variant {variant!r}: expected {' or '.join(name for name in SIZES if name)}, or none")
  return SIZES[variant]
