"""Settings that are one of a few values."""

from collections.abc import Iterable

# How a network of the ImageNet family begins: with the strides that suit a face of 48 pixels, or those of its paper.
STEMS = ("small", "imagenet")


def check_choice(key: str, value: str | int, allowed: Iterable[str | int]) -> None:
  """Raises ValueError, naming the config's key ("model.depth"), if a value is none of those allowed."""
  allowed = tuple(allowed)
  if value not in allowed:
    raise ValueError(f"{key}={value!r}: expected one of {', '.join(map(str, allowed))}")
