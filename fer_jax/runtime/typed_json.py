"""Dataclasses as JSON files.

A field is stored under its name. With the metadata `{"keys": (KEY, OLD_KEY)}` it is stored under KEY, and read from the
keys of earlier versions, too. A dataclass with a field `version` refuses files of a newer version.
"""

import contextlib
import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import write_text

T = TypeVar("T")


def write(path: Path, value: Any) -> None:
  """Writes a dataclass to a JSON file; see `files.write_text`."""
  write_text(path, json.dumps(as_json(value), indent=2, ensure_ascii=False) + "\n")


def read(kind: type[T], path: Path, what: str, advice: str) -> T:
  """Reads a dataclass from a JSON file; see `parse`, which also describes the errors."""
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: expected {what}, cannot read it ({error}); {advice}") from None
  return parse(kind, content, str(path), what, advice)


def parse(kind: type[T], content: Any, path: str, what: str, advice: str) -> T:
  """Returns the dataclass that parsed JSON describes; keys without a field are ignored.

  Args:
    kind: Type of the dataclass.
    content: Parsed JSON.
    path: Path of the file, for error messages.
    what: Description of the expected content, such as "the result of a run", for error messages.
    advice: Advice for error messages.

  Raises:
    UserError: A key is missing or has the wrong type, or the file was written by a newer version.
  """
  if not isinstance(content, dict):
    raise UserError(f"{path}: expected {what}, found {type(content).__name__}; {advice}")
  newest = getattr(kind, "version", 1)  # the default of the field `version` is an attribute of the class
  version = content.get("version", 1)
  if not isinstance(version, int) or version > newest:
    raise UserError(f"{path}: version {version!r} of the result is newer than {newest}; update fer_jax")
  try:
    return _read(kind, {**content, "version": newest}, "")
  except ValueError as error:
    raise UserError(f"{path}: {error}; {advice}") from None


def as_json(value: Any) -> Any:
  """Returns a value in the form of parsed JSON: dataclasses as dicts, and tuples as lists.

  Fields whose default is None are left out if they are None.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {
      _keys(field)[0]: as_json(getattr(value, field.name))
      for field in dataclasses.fields(value)
      if field.default is not None or getattr(value, field.name) is not None
    }
  if isinstance(value, Mapping):
    return {key: as_json(item) for key, item in value.items()}
  return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _keys(field: dataclasses.Field[Any]) -> tuple[str, ...]:
  return field.metadata.get("keys", (field.name,))


def _read(kind: Any, value: Any, key: str) -> Any:
  """Converts parsed JSON to a type; raises ValueError with the key if it does not fit."""
  if kind is Any:
    return value
  arguments = get_args(kind)
  if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
    if value is None:
      return None
    *others, last = (each for each in arguments if each is not type(None))
    for other in others:
      with contextlib.suppress(ValueError):
        return _read(other, value, key)
    return _read(last, value, key)
  origin = get_origin(kind) or kind
  if dataclasses.is_dataclass(origin):
    return _read_dataclass(origin, value, key)
  if origin is tuple and isinstance(value, list) and (arguments[-1] is ... or len(arguments) == len(value)):
    return tuple(_read(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
  if origin is Mapping and isinstance(value, dict):
    return {name: _read(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
  # JSON does not distinguish 1.0 from 1; a bool is an int in Python.
  accepted = (int, float) if origin is float else origin
  if origin not in (tuple, Mapping) and isinstance(value, accepted) and isinstance(value, bool) == (origin is bool):
    return value
  raise ValueError(f"{key}: expected {getattr(origin, '__name__', origin)}, found {value!r:.60}")


def _read_dataclass(kind: Any, value: Any, key: str) -> Any:
  if not isinstance(value, dict):
    raise ValueError(f"{key}: expected an object, found {value!r:.60}")
  hints = get_type_hints(kind)
  found = {}
  for field in dataclasses.fields(kind):
    present = [each for each in _keys(field) if each in value]
    if present:
      found[field.name] = _read(hints[field.name], value[present[0]], f"{key}.{present[0]}".lstrip("."))
    elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
      raise ValueError(f"{key}.{_keys(field)[0]}: missing".lstrip("."))
  return kind(**found)
