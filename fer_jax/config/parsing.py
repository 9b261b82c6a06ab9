"""Conversion of the ConfigDict that a user writes into the typed `Settings` that the code reads.

Every section is parsed into a frozen dataclass, so an unknown key cannot be ignored: it raises a UserError that names
the key and the closest existing one. Durations may be steps, epochs or a share of the run.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from fer_jax.config.settings import CLOCKS, Duration, Settings
from fer_jax.data.views import PROTOCOLS
from fer_jax.models import MODELS, ModelSettings
from fer_jax.objectives import OBJECTIVES, ObjectiveSettings
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.runtime.errors import UserError

T = TypeVar("T")
PRECISIONS = ("float32", "bfloat16")
RESIDENCES = ("auto", "device", "host", "stream")
DROPS = ("", "train_duplicates")
REPLICA_STRATEGIES = ("auto", "loop", "vmap")
_LARGEST_SEED = 2**31 - 1


def parse(config: ConfigDict) -> Settings:
  """Parses a complete config.

  Args:
    config: Config with all overrides applied.

  Returns:
    Typed settings of the run.

  Raises:
    UserError: A key is unknown, missing or has an invalid value.
  """
  settings = _parse_section(Settings, config.to_dict(), "config")
  if not settings.schedule:
    raise UserError("config.schedule is empty: expected the names of phases, in order")
  for name in settings.schedule:
    if name not in settings.phases:
      raise UserError(f"config.schedule names {name!r}: expected one of {', '.join(settings.phases)} (config.phases)")
  unused = set(settings.phases) - set(settings.schedule)
  if unused:
    raise UserError(
      f"config.phases.{min(unused)}: config.schedule does not name this phase; add it to config.schedule or remove it"
    )
  _check_values(settings)
  _check_heads(settings)
  return settings


def _check_values(settings: Settings) -> None:
  """Checks values that depend on a registry or on several keys; dataclasses check the rest themselves."""
  choices = [
    ("precision", settings.precision, PRECISIONS),
    ("data.residence", settings.data.residence, RESIDENCES),
    ("data.drop", settings.data.drop, DROPS),
    ("views", settings.views, tuple(PROTOCOLS)),
    ("replica_strategy", settings.replica_strategy, REPLICA_STRATEGIES),
  ]
  for key, value, allowed in choices:
    if value not in allowed:
      raise UserError(f"config.{key}={value!r}: expected one of {', '.join(allowed)}")
  for key in ("batch_size", "eval_batch_size"):
    if getattr(settings, key) < 1:
      raise UserError(f"config.{key}={getattr(settings, key)}: expected 1 or more")
  if settings.view_margin < 0:
    raise UserError(f"config.view_margin={settings.view_margin}: expected pixels, 0 or more")
  if settings.replicas < 0 or (settings.replicas == 0 and not settings.folds.by):
    raise UserError(
      f"config.replicas={settings.replicas}: expected 1 or more, or 0 for all folds (needs config.folds.by)"
    )
  # The paper's protocol expands first and splits afterwards, so copies of one image fall into training and test.
  if settings.expansion.protocol == "paper" and not settings.folds.by:
    raise UserError(
      "config.expansion.protocol='paper' splits the expanded dataset into folds, but config.folds.by is empty: "
      "expected folds, such as config.folds.by='images', or config.expansion.protocol='honest'"
    )
  if settings.expansion.protocol == "paper" and settings.data.drop:
    raise UserError(
      f"config.data.drop={settings.data.drop!r} removes the copies of test images that config.expansion.protocol="
      "'paper' adds to training: expected config.data.drop='' or config.expansion.protocol='honest'"
    )
  # Replica r uses seed + r, and every seed must fit in an int32.
  if not 0 <= settings.seed <= _LARGEST_SEED - max(settings.replicas, 1):
    raise UserError(f"config.seed={settings.seed}: expected 0 to {_LARGEST_SEED}, including seed + replicas")
  if settings.clock not in CLOCKS:
    raise UserError(f"config.clock={settings.clock!r}: expected one of {', '.join(CLOCKS)}")
  if not 0 <= settings.budget_minutes < math.inf:
    raise UserError(f"config.budget_minutes={settings.budget_minutes}: expected minutes, 0 for no limit")


def _check_heads(settings: Settings) -> None:
  """Checks that all phases describe the same projection heads."""
  local = [phase.objective for phase in settings.phases.values() if isinstance(phase.objective, HsicBottleneck)]
  keys = ("head_layers", "head_features", "grid", "channel_groups")
  heads = {", ".join(f"{key}={getattr(each, key)}" for key in keys) for each in local if each.head_layers}
  if len(heads) > 1:
    raise UserError(
      f"config.phases: objectives with {' and '.join(sorted(heads))}: expected the same values in all phases, because "
      "a layer has one projection head"
    )


def parse_model(section: Mapping[str, Any], path: str = "config.model") -> ModelSettings:
  """Parses the section of a network.

  Args:
    section: Name and hyper-parameters of the network.
    path: Path of the section, for error messages.

  Returns:
    Typed settings of the network.

  Raises:
    UserError: A key is unknown, missing or has an invalid value.
  """
  return typing.cast(ModelSettings, _parse_named(MODELS, section, path))


def model_to_dict(model: ModelSettings) -> dict[str, Any]:
  """Returns the section of a network with all its hyper-parameters, in the form that `parse_model` reads."""
  return typing.cast(dict[str, Any], _to_plain(model))


def complete(config: ConfigDict) -> ConfigDict:
  """Returns a config with all defaults filled in, so that every key can be read and overridden."""
  return ConfigDict(_to_plain(parse(config)))


def check_override(config: ConfigDict, argument: str) -> None:
  """Raises UserError if the command-line override `--config.a.b=value` names a key that the config lacks."""
  match = re.match(r"--?config\.([^=]*)", argument)
  if match is None:
    return
  section: Any = config
  path = "config"
  for part in match[1].split("."):
    if not isinstance(section, ConfigDict) or part not in section:
      known = list(section) if isinstance(section, ConfigDict) else []
      raise _unknown_key(path, part, known)
    section, path = section[part], f"{path}.{part}"


def _to_plain(value: Any) -> Any:
  """Converts settings back to the plain values of a config file."""
  if isinstance(value, Duration):
    # Always text, so that an override may change the unit: ml_collections keeps the type of a key.
    return str(value.amount) if value.unit == "share" else f"{value.amount:.15g} {value.unit}"
  if dataclasses.is_dataclass(value):
    plain = {name: _to_plain(getattr(value, name)) for name in _fields(type(value))}
    names = [n for registry in (MODELS, OBJECTIVES) for n, cls in registry.items() if cls is type(value)]
    return {"name": names[0], **plain} if names else plain
  if isinstance(value, Mapping):
    return {key: _to_plain(item) for key, item in value.items()}
  return value


def _unknown_key(path: str, key: str, known: list[str]) -> UserError:
  """Returns the error for an unknown key, with the closest known key as a hint."""
  matches = difflib.get_close_matches(key, known, n=1)
  hint = f"did you mean {path}.{matches[0]}?" if matches else f"the keys are: {', '.join(sorted(known)) or 'none'}"
  return UserError(f"{path}.{key}: no such key; {hint}")


def _parse_section(cls: type[T], mapping: Any, path: str) -> T:
  """Builds a dataclass from a mapping whose keys are its fields.

  Args:
    cls: Dataclass to build.
    mapping: Section of the config.
    path: Path of the section, for error messages.

  Returns:
    Instance of `cls`; keys absent from `mapping` keep their defaults.

  Raises:
    UserError: A key is unknown, missing or has an invalid value.
  """
  if not isinstance(mapping, Mapping):
    raise UserError(f"{path}={mapping!r}: expected a section with {', '.join(_fields(cls))}")
  hints = typing.get_type_hints(cls)
  known = _fields(cls)
  for key in mapping:
    if key not in known:
      raise _unknown_key(path, key, known)
  for field in dataclasses.fields(cls):  # type: ignore[arg-type]
    no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    if no_default and field.name not in mapping:
      raise UserError(f"{path}.{field.name} is missing")
  values = {key: _parse_value(hints[key], value, f"{path}.{key}") for key, value in mapping.items()}
  try:
    return cls(**values)
  # `__post_init__` of a section raises ValueError, without the path of the section.
  except ValueError as error:
    raise UserError(f"{path}: {error}") from None


def _parse_named(registry: Mapping[str, type], mapping: Any, path: str) -> Any:
  """Builds the registered dataclass that the key `name` of a section selects."""
  if not isinstance(mapping, Mapping) or "name" not in mapping:
    raise UserError(f"{path}.name is missing: expected one of {', '.join(registry)}")
  rest = dict(mapping)
  name = rest.pop("name")
  if name not in registry:
    raise UserError(f"{path}.name={name!r}: expected one of {', '.join(registry)}")
  return _parse_section(registry[name], rest, path)


def _parse_value(kind: Any, value: Any, path: str) -> Any:
  """Checks one value and converts it to the type of its field.

  Args:
    kind: Annotated type of the field.
    value: Value in the config.
    path: Path of the key, for error messages.
  """
  if kind is ModelSettings:
    return _parse_named(MODELS, value, path)
  if kind is ObjectiveSettings:
    return _parse_named(OBJECTIVES, value, path)
  if kind is Duration:
    return Duration.parse(value, path)
  if dataclasses.is_dataclass(kind):
    return _parse_section(typing.cast(type, kind), value, path)
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin is tuple:
    # A single value is accepted as a tuple of length 1: --config.schedule=main.
    items = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(_parse_value(arguments[0], item, path) for item in items)
  if origin is not None and issubclass(origin, Mapping):
    if not isinstance(value, Mapping):
      raise UserError(f"{path}={value!r}: expected a section of named values")
    # Read-only, because the enclosing dataclass is frozen.
    return types.MappingProxyType({k: _parse_value(arguments[1], v, f"{path}.{k}") for k, v in value.items()})
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  # bool is a subclass of int: True would otherwise pass as 1.
  if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
    raise UserError(f"{path}={value!r}: expected {kind.__name__}, not {type(value).__name__}")
  return value


def _fields(cls: type) -> list[str]:
  return [field.name for field in dataclasses.fields(cls)]
