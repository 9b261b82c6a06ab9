"""A file of torch.save, read without PyTorch and without running anything that it holds.

Both forms are read: the zip archive (PyTorch 1.6 and later: `NAME/data.pkl` describes the tensors, `NAME/data/KEY` are
their numbers) and the stream before it (a magic number, a version, the writing machine, the description, the keys,
then the numbers of each). No tensor reaches outside its numbers, and no more memory is used than a few times the file.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.errors import UserError
from fer_jax.pretrained import torch_pickle
from fer_jax.pretrained.torch_pickle import Parameter, Storage, Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_LENGTH_BYTES = 8
_MOST_AXES = 32
_MOST = 2**63
# NotImplementedError is a RuntimeError, as is what an encrypted member raises.
_ZIP_ERRORS = (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, struct.error)
# What checkpoints call the part that holds the weights.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")

# Returns the bytes of a storage.
_Numbers = Callable[[Storage], memoryview]


def read(path: Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a state_dict by name, in PyTorch's layout, read-only.

  A checkpoint that holds the state_dict beside other things, as "state_dict" or "model", is opened; what is not a
  tensor is passed over.

  Args:
    path: of the file (.pth or .pt).

  Raises:
    UserError: the file is damaged, holds code, or numbers of a type that is not read; nothing of it was executed.
    OSError: the file cannot be read.
  """
  data = path.read_bytes()
  try:
    content, numbers = _read_zip(data, path) if data.startswith(b"PK") else _read_stream(data, path)
    for wrapper in _WRAPPERS:
      if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
        content = content[wrapper]
    if not isinstance(content, dict):
      raise UserError(
        f"{path}: holds a {type(content).__name__}; expected a state_dict; save model.state_dict() with torch.save"
      )
    tensors = {name: _unwrapped(value) for name, value in content.items()}
    return {name: _array(value, numbers) for name, value in tensors.items() if isinstance(value, Tensor)}
  except _Damaged as error:
    raise UserError(f"{path}: damaged: {error}; fetch or save it again") from None


class _Damaged(Exception):
  """What a file says of itself is not so."""


def _unwrapped(value: Any) -> Any:
  return value.tensor if isinstance(value, Parameter) else value


def _read_zip(data: bytes, path: Path) -> tuple[Any, _Numbers]:
  """Reads the archive's description; returns it, and how to get at a storage's bytes."""
  try:
    archive = zipfile.ZipFile(io.BytesIO(data))
  except _ZIP_ERRORS as error:
    raise _Damaged(f"no whole zip archive ({str(error)[:100]})") from None
  members = {info.filename: info for info in archive.infolist()}
  if any(name.endswith("/constants.pkl") for name in members):
    raise UserError(f"{path}: is a TorchScript program, {torch_pickle.HOLDS_CODE}")
  if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
    raise _Damaged("its zip archive is compressed, which torch.save never does")
  if sum(info.file_size for info in members.values()) > len(data):
    raise _Damaged("its zip archive declares more bytes than the file has")
  roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
  if len(roots) != 1:
    raise _Damaged("its zip archive holds no data.pkl, which torch.save writes")

  def member(name: str) -> bytes:
    if f"{roots[0]}{name}" not in members:
      raise _Damaged(f"its zip archive has no {ascii(name)[:60]}")
    try:
      return archive.read(members[f"{roots[0]}{name}"])
    except _ZIP_ERRORS as error:
      raise _Damaged(f"{ascii(name)[:60]} in its zip archive cannot be read ({str(error)[:100]})") from None

  if f"{roots[0]}byteorder" in members and member("byteorder") != b"little":
    raise _big_endian(path)
  content, _ = torch_pickle.load(io.BytesIO(member("data.pkl")), path)
  read_before: dict[str, memoryview] = {}

  def numbers(storage: Storage) -> memoryview:
    if storage.key not in read_before:
      read_before[storage.key] = memoryview(member(f"data/{storage.key}"))
    return read_before[storage.key]

  return content, numbers


def _read_stream(data: bytes, path: Path) -> tuple[Any, _Numbers]:
  """Reads the form of PyTorch before 1.6; returns its description, and how to get at a storage's bytes."""
  stream = io.BytesIO(data)
  magic, _ = torch_pickle.load(stream, path)
  if magic != _MAGIC:
    raise UserError(
      f"{path}: a pickle, but none of torch.save; expected a state_dict; save model.state_dict() with torch.save"
    )
  version, _ = torch_pickle.load(stream, path)
  system, _ = torch_pickle.load(stream, path)
  if version != _VERSION or not isinstance(system, dict):
    raise _Damaged(f"its head is not that of version {_VERSION}")
  if system.get("little_endian") is not True:
    raise _big_endian(path)
  content, storages = torch_pickle.load(stream, path)
  keys, _ = torch_pickle.load(stream, path)
  if not isinstance(keys, list) or not all(type(key) is str for key in keys):
    raise _Damaged("its list of storages is none")
  at, whole = stream.tell(), memoryview(data)
  places: dict[str, memoryview] = {}
  for key in keys:
    if key not in storages:
      raise _Damaged(f"it holds a storage {ascii(key)[:60]} of unknown type")
    length = int.from_bytes(data[at : at + _LENGTH_BYTES], "little")
    begin, at = at + _LENGTH_BYTES, at + _LENGTH_BYTES + length * storages[key].dtype.itemsize
    if at > len(data):
      raise _Damaged(f"it ends inside the storage {ascii(key)[:60]}")
    places[key] = whole[begin:at]

  def numbers(storage: Storage) -> memoryview:
    if storage.key not in places:
      raise _Damaged(f"it lacks the storage {ascii(storage.key)[:60]}")
    return places[storage.key]

  return content, numbers


def _big_endian(path: Path) -> UserError:
  return UserError(
    f"{path}: written on a big-endian machine; expected little-endian numbers; load and save it again on a PC"
  )


def _array(tensor: Tensor, numbers: _Numbers) -> np.ndarray:
  """Returns a tensor as a view of its storage, having checked that it stays inside."""
  storage, offset, size, stride = tensor
  if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
    raise _Damaged("a tensor of unknown form")
  extents = (storage.length, offset, *size, *stride)
  if len(size) != len(stride) or len(size) > _MOST_AXES or any(type(n) is not int for n in extents):
    raise _Damaged("a tensor of unknown form")
  count = math.prod(size)
  last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset - 1
  if not 0 <= min(extents) <= max(extents) < _MOST or max(last + 1, count) > storage.length:
    raise _Damaged("a tensor reaches outside its numbers")
  held = numbers(storage)
  if len(held) != storage.length * storage.dtype.itemsize:
    raise _Damaged(f"a storage of {len(held)} bytes that should hold {storage.length} x {storage.dtype}")
  if not count:
    return np.zeros(0, storage.dtype)  # axes as long as one likes cost nothing in the file
  flat = np.frombuffer(held, storage.dtype)
  # The step along an axis of one is never taken, and may be any number.
  steps = [step * flat.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
  return np.lib.stride_tricks.as_strided(flat[offset:], size, steps)
