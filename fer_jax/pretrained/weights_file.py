"""Reads the named arrays of a weights file in any supported format."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from fer_jax.pretrained import torch_file
from fer_jax.runtime.errors import UserError

# Dtype names of the format: https://github.com/huggingface/safetensors#format
_SAFETENSORS: dict[str, np.dtype] = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(jnp.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "I16": np.dtype(np.int16),
  "I8": np.dtype(np.int8),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
# Exceptions that NumPy raises for damaged files and for files that are not .npz.
_NPZ_ERRORS = (
  ValueError,
  TypeError,
  AttributeError,
  EOFError,
  KeyError,
  MemoryError,
  RuntimeError,
  zipfile.BadZipFile,
  zlib.error,
)
# Prefix that torch.nn.DataParallel and DistributedDataParallel add to every name.
_PARALLEL_PREFIX = "module."
_MAX_NAME_LENGTH = 200


def read(path: Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a weights file by name, in the layout of the file.

  If all names begin with "module.", the prefix of PyTorch's data-parallel wrappers, it is removed.

  Args:
    path: Path of a .pth or .pt (torch.save), .safetensors or .npz file.

  Returns:
    Arrays by name; PyTorch's weights stay in PyTorch's layout.

  Raises:
    UserError: The file does not exist, has another format, is damaged, or contains no array.
  """
  if not path.exists():
    raise UserError(f"{path}: no such file; expected {EXPECTED}; check the path")
  reader = _READERS.get(path.suffix.lower())
  if reader is None:
    raise UserError(f"{path}: unknown file format (by its suffix); expected {EXPECTED}; convert or rename it")
  try:
    arrays = reader(path)
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected {EXPECTED}") from None
  if not arrays:
    raise UserError(f"{path}: contains no array; expected the weights of a network by name, as in model.state_dict()")
  # Names appear in messages and logs, so they must be short and printable.
  for name in arrays:
    if not isinstance(name, str) or not name.isprintable() or len(name) > _MAX_NAME_LENGTH:
      description = f"the name {name[:40]!a}" if isinstance(name, str) else f"a name of type {type(name).__name__}"
      raise UserError(
        f"{path}: contains an array with {description}; expected up to {_MAX_NAME_LENGTH} printable characters"
      )
  if all(name.startswith(_PARALLEL_PREFIX) for name in arrays):
    return {name.removeprefix(_PARALLEL_PREFIX): array for name, array in arrays.items()}
  return arrays


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
  data = path.read_bytes()
  try:
    tensors = safetensors.deserialize(data)
  except (safetensors.SafetensorError, ValueError) as error:
    raise _damaged(path, "safetensors", error) from None
  arrays = {}
  for name, tensor in sorted(tensors, key=lambda named: named[0]):  # safetensors returns them in random order
    dtype = _SAFETENSORS.get(tensor["dtype"])
    if dtype is None:
      raise UserError(
        f"{path}: {name!a} has the unsupported dtype {tensor['dtype']}; expected one of "
        f"{', '.join(_SAFETENSORS)}; save the weights as float32"
      )
    arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
  return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
      return dict(archive)
  except _NPZ_ERRORS as error:
    if "Object arrays" in str(error):
      raise UserError(
        f"{path}: contains Python objects, which are not read because they may be code; expected arrays of numbers; "
        "save each array under a separate name"
      ) from None
    raise _damaged(path, "npz", error) from None


def _damaged(path: Path, form: str, error: Exception) -> UserError:
  reason = " ".join(str(error).split())[:120] or type(error).__name__
  return UserError(f"{path}: damaged, or not a .{form} file ({reason}); download or save it again")


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
  ".pth": torch_file.read,
  ".pt": torch_file.read,
  ".safetensors": _read_safetensors,
  ".npz": _read_npz,
}
EXPECTED = f"{', '.join(_READERS)} or the folder of a finished run"
