"""Configs, one file per paper; `configs/FILE.py:VARIANT` selects a variant. Sweeps are in configs/sweeps."""

from collections.abc import Sequence


def select_variants(variant: str, known: Sequence[str], file: str) -> tuple[str, ...]:
  """Parses a comma-separated list of variants.

  Args:
    variant: Names of variants, separated by commas.
    known: All variants of the config.
    file: Path of the config, for the error message.

  Returns:
    The named variants in the order of `known`, so that the order on the command line does not matter.

  Raises:
    ValueError: A name is not in `known`.
  """
  names = [name for name in variant.split(",") if name]
  for name in names:
    if name not in known:
      raise ValueError(f"{file} has no variant {name!r}: expected any of {', '.join(known)}")
  return tuple(name for name in known if name in names)
