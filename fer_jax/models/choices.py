"""Settings whose value is one of a fixed set."""

from collections.abc import Iterable

# Strides at the start of an ImageNet network: suited to faces of 48 pixels, or those of its paper.
STEMS = ("small", "imagenet")


def check_choice(key: str, value: str | int, allowed: Iterable[str | int]) -> None:
  """Raises ValueError if a setting does not have one of the allowed values.

  Args:
    key: Config key for the message, such as "model.depth".
    value: Value of the setting.
    allowed: Allowed values.
  """
  allowed = tuple(allowed)
  if value not in allowed:
    raise ValueError(f"{key}={value!r}: expected one of {', '.join(map(str, allowed))}")
