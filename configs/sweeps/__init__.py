"""One file an experiment of a paper; `python launch/sweep.py configs/sweeps/FILE.py:VARIANT` runs it.

Each has `get_sweep(variant)`, and all have the same three variants, which are here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fer_jax.sweep import Member


class Size(NamedTuple):
  """How long an experiment's trainings are.

  Attributes:
    variant: of the members' configs.
    overrides: of the members' configs.
    seeds: of each member.
  """

  variant: str
  overrides: tuple[str, ...]
  seeds: tuple[int, ...]

  def member(
    self,
    name: str,
    config: str = "configs/hsic.py",
    variant: str = "",
    overrides: tuple[str, ...] = (),
    value: float | str | None = None,
    reported: Mapping[str, Any] | None = None,
    timing: str = "",
    begins_with: str = "",
  ) -> Member:
    """Returns a member of this size; the arguments are what it differs in."""
    variants = ",".join(part for part in (self.variant, variant) if part)
    source = f"{config}:{variants}" if variants else config
    return Member(name, source, (*self.overrides, *overrides), self.seeds, value, reported or {}, timing, begins_with)


SIZES = {
  # As printed: 10,000 steps; for a GPU.
  "": Size("", (), (0, 1, 2)),
  # Small networks, for two CPU cores: some minutes a member. --config.budget_minutes sets how many.
  "small": Size("small", ("--config.duration=400 steps", "--config.evaluate_every=50 steps"), (0,)),
  # Built-in faces, a handful of steps: shows that it runs.
  "demo": Size(
    "demo",
    ("--config.duration=12 steps", "--config.evaluate_every=3 steps", "--config.log_every=1 steps"),
    (0,),
  ),
}


def size_of(variant: str) -> Size:
  """Returns the size that a variant names; raises ValueError where there is none."""
  if variant not in SIZES:
    raise ValueError(f"no variant {variant!r}: expected {' or '.join(name for name in SIZES if name)}, or none")
  return SIZES[variant]
