"""One file a paper; `configs/FILE.py:VARIANT` chooses a variant. Sweeps stand in configs/sweeps."""

from collections.abc import Sequence


def chosen_variants(variant: str, known: Sequence[str], file: str) -> tuple[str, ...]:
  """Returns the variants that a comma-separated list names, in the order of `known`, whatever order they stand in.

  Raises:
    ValueError: one of them is not known; `file` is named as the config that lacks it.
  """
  names = [name for name in variant.split(",") if name]
  for name in names:
    if name not in known:
      raise ValueError(f"{file} has no variant {name!r}: expected any of {', '.join(known)}")
  return tuple(name for name in known if name in names)
