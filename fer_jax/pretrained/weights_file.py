"""Arrays by name out of a file of weights, whatever its form."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from fer_jax.errors import UserError
from fer_jax.pretrained import torch_file

# The format's names of numbers: https://github.com/huggingface/safetensors#format
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
# What NumPy raises for a damaged file, or for one that is no .npz file.
_NPZ_ERRORS = (
  *(ValueError, TypeError, AttributeError, EOFError, KeyError, MemoryError, RuntimeError),
  *(zipfile.BadZipFile, zlib.error),
)
# Added to every name by torch.nn.DataParallel and DistributedDataParallel.
_PARALLEL = "module."
_LONGEST_NAME = 200


def read(path: Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a file by name, in the layout that it has them in, for PyTorch's weights PyTorch's.

  A prefix "module." of all names, which PyTorch's data parallelism leaves, is taken off.

  Args:
    path: of a .pth or .pt (torch.save), .safetensors or .npz file.

  Raises:
    UserError: there is no such file, its form is not one of these, it is damaged, or holds no array.
  """
  if not path.exists():
    raise UserError(f"{path}: no such file; expected {EXPECTED}; check the path")
  reader = _READERS.get(path.suffix.lower())
  if reader is None:
    raise UserError(f"{path}: a file of unknown form, by its suffix; expected {EXPECTED}; convert or rename it")
  try:
    arrays = reader(path)
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected {EXPECTED}") from None
  if not arrays:
    raise UserError(f"{path}: holds no array; expected the weights of a network by name, as model.state_dict() is")
  for name in arrays:
    if not isinstance(name, str) or not name.isprintable() or len(name) > _LONGEST_NAME:
      shown = f"the name {name[:40]!a}" if isinstance(name, str) else f"a {type(name).__name__} for a name"
      raise UserError(f"{path}: holds an array with {shown}; expected up to {_LONGEST_NAME} printable characters")
  if all(name.startswith(_PARALLEL) for name in arrays):
    return {name.removeprefix(_PARALLEL): array for name, array in arrays.items()}
  return arrays


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
  data = path.read_bytes()
  try:
    tensors = safetensors.deserialize(data)
  except (safetensors.SafetensorError, ValueError) as error:
    raise _damaged(path, "safetensors", error) from None
  arrays = {}
  for name, tensor in sorted(tensors, key=lambda named: named[0]):  # else their order is another one every time
    dtype = _SAFETENSORS.get(tensor["dtype"])
    if dtype is None:
      raise UserError(
        f"{path}: {name!a} holds numbers of the type {tensor['dtype']}, which is not read; expected one of "
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
        f"{path}: holds Python objects, which are not read, since they may be code; expected arrays of numbers; save "
        "each array under a name of its own"
      ) from None
    raise _damaged(path, "npz", error) from None


def _damaged(path: Path, form: str, error: Exception) -> UserError:
  reason = " ".join(str(error).split())[:120] or type(error).__name__
  return UserError(f"{path}: damaged, or no .{form} file ({reason}); fetch or save it again")


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
  ".pth": torch_file.read,
  ".pt": torch_file.read,
  ".safetensors": _read_safetensors,
  ".npz": _read_npz,
}
EXPECTED = f"{', '.join(_READERS)} or the folder of a finished run"
