"""Reads files written by torch.save, without PyTorch and without executing any code in them.

Two formats are supported. PyTorch 1.6 and later write a zip archive: `NAME/data.pkl` describes the tensors, and
`NAME/data/KEY` contains the numbers of each storage. Earlier versions write a stream: magic number, version, system
information, description, storage keys, then the numbers of each storage. Every tensor is checked to stay inside its
storage, and memory use is bounded by a small multiple of the file size.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.pretrained import torch_pickle
from fer_jax.pretrained.torch_pickle import Parameter, Storage, Tensor
from fer_jax.runtime.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_LENGTH_BYTES = 8
_MAX_AXES = 32
_MAX_NUMBER = 2**63
# RuntimeError covers encrypted entries and NotImplementedError (an unsupported compression method).
_ZIP_ERRORS = (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, struct.error)
# Keys under which training checkpoints store the state_dict.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")

# Function from a storage to its bytes.
_StorageReader = Callable[[Storage], memoryview]


def read(path: Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a state_dict by name, in PyTorch's layout, read-only.

  If the file is a full checkpoint, its entry "state_dict", "model", "model_state_dict" or "net" is used. Values
  that are not tensors are skipped.

  Args:
    path: Path of the file (.pth or .pt).

  Raises:
    UserError: The file is damaged, contains code, or has numbers of an unsupported type. Nothing of it is executed.
    OSError: The file cannot be read.
  """
  data = path.read_bytes()
  try:
    content, read_storage = _read_zip(data, path) if data.startswith(b"PK") else _read_stream(data, path)
    # Wrappers can be nested in this order, such as {"state_dict": {"model": ...}}.
    for wrapper in _WRAPPERS:
      if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
        content = content[wrapper]
    if not isinstance(content, dict):
      raise UserError(
        f"{path}: contains a {type(content).__name__}; expected a state_dict; save model.state_dict() with torch.save"
      )
    tensors = {name: _unwrap(value) for name, value in content.items()}
    return {name: _array(value, read_storage) for name, value in tensors.items() if isinstance(value, Tensor)}
  except _DamagedError as error:
    raise UserError(f"{path}: damaged: {error}; download or save it again") from None


class _DamagedError(Exception):
  """The content of a file contradicts its own description."""


def _unwrap(value: Any) -> Any:
  return value.tensor if isinstance(value, Parameter) else value


def _read_zip(data: bytes, path: Path) -> tuple[Any, _StorageReader]:
  """Returns the unpickled description in a zip archive, and the function that reads a storage's bytes."""
  try:
    archive = zipfile.ZipFile(io.BytesIO(data))
  except _ZIP_ERRORS as error:
    raise _DamagedError(f"incomplete zip archive ({str(error)[:100]})") from None
  entries = {info.filename: info for info in archive.infolist()}
  if any(name.endswith("/constants.pkl") for name in entries):
    raise UserError(f"{path}: is a TorchScript program, {torch_pickle.HOLDS_CODE}")
  if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
    raise _DamagedError("its zip archive is compressed, which torch.save never does")
  # Entries are stored uncompressed, so their sizes cannot exceed the file's; this bounds the memory used.
  if sum(info.file_size for info in entries.values()) > len(data):
    raise _DamagedError("its zip archive declares more bytes than the file has")
  roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
  if len(roots) != 1:
    raise _DamagedError("its zip archive has no data.pkl, which torch.save writes")

  def read_entry(name: str) -> bytes:
    if f"{roots[0]}{name}" not in entries:
      raise _DamagedError(f"its zip archive has no {ascii(name)[:60]}")
    try:
      return archive.read(entries[f"{roots[0]}{name}"])
    except _ZIP_ERRORS as error:
      raise _DamagedError(f"{ascii(name)[:60]} in its zip archive cannot be read ({str(error)[:100]})") from None

  if f"{roots[0]}byteorder" in entries and read_entry("byteorder") != b"little":
    raise _big_endian(path)
  content, _ = torch_pickle.load(io.BytesIO(read_entry("data.pkl")), path)
  # Tensors can share a storage: read each once.
  cache: dict[str, memoryview] = {}

  def read_storage(storage: Storage) -> memoryview:
    if storage.key not in cache:
      cache[storage.key] = memoryview(read_entry(f"data/{storage.key}"))
    return cache[storage.key]

  return content, read_storage


def _read_stream(data: bytes, path: Path) -> tuple[Any, _StorageReader]:
  """Returns the same as `_read_zip` for the stream format of PyTorch before 1.6."""
  stream = io.BytesIO(data)
  magic, _ = torch_pickle.load(stream, path)
  if magic != _MAGIC:
    raise UserError(
      f"{path}: a pickle, but not one from torch.save; expected a state_dict; save model.state_dict() with torch.save"
    )
  version, _ = torch_pickle.load(stream, path)
  system, _ = torch_pickle.load(stream, path)
  if version != _VERSION or not isinstance(system, dict):
    raise _DamagedError(f"its header is not that of version {_VERSION}")
  if system.get("little_endian") is not True:
    raise _big_endian(path)
  content, storages = torch_pickle.load(stream, path)
  keys, _ = torch_pickle.load(stream, path)
  if not isinstance(keys, list) or not all(type(key) is str for key in keys):
    raise _DamagedError("its list of storage keys is malformed")
  # The storages follow in the order of `keys`, each as an 8-byte length and then its numbers.
  position, view = stream.tell(), memoryview(data)
  storage_bytes: dict[str, memoryview] = {}
  for key in keys:
    if key not in storages:
      raise _DamagedError(f"it has a storage {ascii(key)[:60]} of unknown type")
    length = int.from_bytes(data[position : position + _LENGTH_BYTES], "little")
    begin, position = position + _LENGTH_BYTES, position + _LENGTH_BYTES + length * storages[key].dtype.itemsize
    if position > len(data):
      raise _DamagedError(f"it ends inside the storage {ascii(key)[:60]}")
    storage_bytes[key] = view[begin:position]

  def read_storage(storage: Storage) -> memoryview:
    if storage.key not in storage_bytes:
      raise _DamagedError(f"it lacks the storage {ascii(storage.key)[:60]}")
    return storage_bytes[storage.key]

  return content, read_storage


def _big_endian(path: Path) -> UserError:
  return UserError(
    f"{path}: written on a big-endian machine; expected little-endian numbers; save it again on a little-endian one"
  )


def _array(tensor: Tensor, read_storage: _StorageReader) -> np.ndarray:
  """Returns a tensor as a view of its storage; raises _Damaged if it would reach outside the storage."""
  storage, offset, size, stride = tensor
  if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
    raise _DamagedError("a tensor with malformed fields")
  extents = (storage.length, offset, *size, *stride)
  if len(size) != len(stride) or len(size) > _MAX_AXES or any(type(n) is not int for n in extents):
    raise _DamagedError("a tensor with malformed fields")
  # Index of the last element that the view can reach; strides must not be negative.
  count = math.prod(size)
  last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset - 1
  if not 0 <= min(extents) <= max(extents) < _MAX_NUMBER or max(last + 1, count) > storage.length:
    raise _DamagedError("a tensor reaches outside its storage")
  data = read_storage(storage)
  if len(data) != storage.length * storage.dtype.itemsize:
    raise _DamagedError(f"a storage of {len(data)} bytes; expected {storage.length} x {storage.dtype}")
  if not count:
    return np.zeros(0, storage.dtype)  # not `size`: its other axes may be arbitrarily long
  flat = np.frombuffer(data, storage.dtype)
  # The stride of an axis of length 1 is never used and may be any number.
  steps = [step * flat.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
  return np.lib.stride_tricks.as_strided(flat[offset:], size, steps)
