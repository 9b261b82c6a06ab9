"""The pickle inside a PyTorch file, read as data: no name that it asks for is ever imported, nothing it holds is run.

The unpickler of the standard library calls whatever a file names. Here every name stands for one of a few stand-ins of
our own, which only note what they were called with; any other name ends the reading. A file's author can therefore
build lists, dictionaries, texts, numbers and notes, and nothing else.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fer_jax.errors import UserError

# PyTorch's names for arrays of numbers, and the numbers in them.
STORAGES: dict[str, np.dtype] = {
  "DoubleStorage": np.dtype(np.float64),
  "FloatStorage": np.dtype(np.float32),
  "HalfStorage": np.dtype(np.float16),
  "BFloat16Storage": np.dtype(jnp.bfloat16),
  "LongStorage": np.dtype(np.int64),
  "IntStorage": np.dtype(np.int32),
  "ShortStorage": np.dtype(np.int16),
  "CharStorage": np.dtype(np.int8),
  "ByteStorage": np.dtype(np.uint8),
  "BoolStorage": np.dtype(np.bool_),
}
HOLDS_CODE = (
  "so it holds code and not only weights; nothing of it was executed; save model.state_dict() with torch.save, or "
  "convert the weights to .safetensors"
)
# What a pickle may not do although it names nothing: fetch what other code of this process has registered.
_REFUSED = {"EXT1", "EXT2", "EXT4"}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


class Storage(NamedTuple):
  """A run of numbers that stands elsewhere in the file.

  Attributes:
    key: its name there.
    dtype: of the numbers.
    length: how many, by the pickle's word.
  """

  key: str
  dtype: np.dtype
  length: int


class Tensor(NamedTuple):
  """A tensor as the pickle describes it; nothing of it has been checked.

  Attributes:
    storage: where its numbers are.
    offset: of its first number.
    size: of each axis.
    stride: numbers from one to the next along each axis.
  """

  storage: Any
  offset: Any
  size: Any
  stride: Any


class Parameter:
  """A trainable tensor as PyTorch before 0.4 pickled it: the tensor, then a state, which may hold the tensor instead.

  Attributes:
    tensor: what the pickle put there.
  """

  __slots__ = ("tensor",)

  def __init__(self, tensor: Any = None):
    self.tensor = tensor

  def __setstate__(self, state: Any) -> None:
    if isinstance(state, tuple) and len(state) == 5:
      self.tensor = state[0]


def load(stream: io.BytesIO, path: Path) -> tuple[Any, dict[str, Storage]]:
  """Reads one pickle.

  Args:
    stream: stands where the pickle begins, and is left where it ends.
    path: of the file, for errors.

  Returns:
    the object, made of dict, list, tuple, text, number, `Tensor` and `Parameter`; and the storages that it speaks of,
    by key.

  Raises:
    UserError: the pickle is damaged, or asks for a name that is none of a state_dict's.
  """
  try:
    unpickler = _Unpickler(io.BytesIO(_take(stream)), path)
    return unpickler.load(), unpickler.storages
  except UserError:
    raise
  except Exception as error:  # a garbled pickle raises nearly anything
    raise UserError(
      f"{path}: damaged, or no file of torch.save ({type(error).__name__} in its pickle); expected a state_dict; fetch "
      "or save it again"
    ) from None


def _take(stream: io.BytesIO) -> bytes:
  """Returns the bytes of the next pickle; raises ValueError for what no pickle of weights does."""
  begin = stream.tell()
  for opcode, argument, position in pickletools.genops(stream):
    if opcode.name in _REFUSED:
      raise ValueError(f"the opcode {opcode.name}")
    # The interpreter makes room for as many memo entries as the largest number given, whatever the file's size.
    if opcode.name in _MEMO and not (isinstance(argument, int) and argument <= (position or 0) - begin):
      raise ValueError("a memo entry out of order")
  end = stream.tell()
  stream.seek(begin)
  return stream.read(end - begin)


class _Name:
  """A stand-in for a name, called in its place; the state that a pickle may try to give it is refused."""

  __slots__ = ("_function",)

  def __init__(self, function: Callable[..., Any]):
    self._function = function

  def __call__(self, *arguments: Any) -> Any:
    return self._function(*arguments)

  def __setstate__(self, state: Any) -> None:
    raise pickle.UnpicklingError("state for a function")


class _StorageType(NamedTuple):
  """A stand-in for the type of a storage."""

  dtype: np.dtype


class _Dict(dict[Any, Any]):
  """A stand-in for an OrderedDict; what a state_dict keeps as its attributes (`_metadata`) is passed over."""

  __slots__ = ()

  def __setstate__(self, state: Any) -> None:
    pass


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
  """Stands for torch._utils._rebuild_tensor and _rebuild_tensor_v2, which differ in what is left out here."""
  del rest
  return Tensor(storage, offset, size, stride)


def _parameter(tensor: Any, *rest: Any) -> Any:
  """Stands for torch._utils._rebuild_parameter."""
  del rest
  return tensor


class _Unpickler(pickle.Unpickler):
  """Knows the names in a state_dict and no other.

  Args:
    stream: of one pickle.
    path: of the file, for errors.
  """

  def __init__(self, stream: io.BytesIO, path: Path):
    super().__init__(stream, fix_imports=False, encoding="utf-8")
    self._path = path
    self.storages: dict[str, Storage] = {}

  def find_class(self, module: str, name: str) -> Any:
    """Returns the stand-in for a name; raises UserError where there is none."""
    if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
      if name in STORAGES:
        return _StorageType(STORAGES[name])
      raise UserError(
        f"{self._path}: holds numbers of the type {_shown(module, name)}, which is not read; expected one of "
        f"{', '.join(STORAGES)}; save the weights as float32"
      )
    match module, name:
      case "collections", "OrderedDict":
        return _Name(_Dict)
      case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
        return _Name(_tensor)
      case "torch._utils", "_rebuild_parameter":
        return _Name(_parameter)
      case "torch.nn.parameter", "Parameter":
        return Parameter
      case "torch", "Size":
        return _Name(tuple)
    raise UserError(f"{self._path}: asks for {_shown(module, name)}, {HOLDS_CODE}")

  def persistent_load(self, pid: Any) -> Storage:
    """Notes a storage: ("storage", type, key, device, length, and in old files what it is a part of)."""
    if not isinstance(pid, tuple) or pid[0] != "storage":
      raise pickle.UnpicklingError("a reference to no storage")
    _, kind, key, _, length, *view = pid
    if not isinstance(kind, _StorageType) or type(key) is not str or view not in ([], [None]):
      raise pickle.UnpicklingError("a storage of unknown form")
    storage = Storage(key, kind.dtype, length)
    if self.storages.setdefault(key, storage) != storage:
      raise pickle.UnpicklingError("a storage described in two ways")
    return storage


def _shown(module: str, name: str) -> str:
  """Returns a name that a stranger chose, fit for a line of a terminal."""
  return ascii(f"{module}.{name}")[:100]
