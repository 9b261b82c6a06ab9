"""Safe unpickling of PyTorch files: no name in a file is imported, and no code in it is executed.

The standard unpickler calls any function that a file names. This one replaces the few names that occur in a state_dict
by stand-ins, which only record their arguments, and raises an error for any other name. A file can therefore create
lists, dicts, strings, numbers and these records, and nothing else.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fer_jax.runtime.errors import UserError

# PyTorch's storage types and their dtypes.
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
  "so it contains code, not only weights; nothing of it was executed; save model.state_dict() with torch.save, or "
  "convert the weights to .safetensors"
)
# Refused although they contain no name: these opcodes fetch objects that other code registered with `copyreg`.
_REFUSED = {"EXT1", "EXT2", "EXT4"}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


class Storage(NamedTuple):
  """A reference to a flat array of numbers stored elsewhere in the file.

  Attributes:
    key: Key of the array in the file.
    dtype: Data type of the numbers.
    length: Number of elements as declared in the pickle; not checked.
  """

  key: str
  dtype: np.dtype
  length: int


class Tensor(NamedTuple):
  """A tensor as described in the pickle; none of its fields has been checked.

  Attributes:
    storage: `Storage` with its numbers.
    offset: Index of its first element in the storage.
    size: Length of each axis.
    stride: Stride along each axis, in elements.
  """

  storage: Any
  offset: Any
  size: Any
  stride: Any


class Parameter:
  """A trainable tensor as pickled by PyTorch before 0.4: its tensor is a constructor argument or part of the state.

  Attributes:
    tensor: Value in the pickle; a `Tensor` unless the file is malformed.
  """

  __slots__ = ("tensor",)

  def __init__(self, tensor: Any = None):
    self.tensor = tensor

  def __setstate__(self, state: Any) -> None:
    # The state's first item is the tensor; the other four (hooks, requires_grad, ...) are not needed.
    if isinstance(state, tuple) and len(state) == 5:
      self.tensor = state[0]


def load(stream: io.BytesIO, path: Path) -> tuple[Any, dict[str, Storage]]:
  """Reads one pickle.

  Args:
    stream: Stream positioned at the start of the pickle; afterwards at its end.
    path: Path of the file, for error messages.

  Returns:
    Tuple (object, storages): the object, built of dict, list, tuple, str, numbers, `Tensor` and `Parameter`; and the
    storages it refers to, by key.

  Raises:
    UserError: The pickle is damaged, or refers to a name that does not occur in a state_dict.
  """
  try:
    unpickler = _Unpickler(io.BytesIO(_next_pickle(stream)), path)
    return unpickler.load(), unpickler.storages
  except UserError:
    raise
  except Exception as error:  # a garbled pickle can raise nearly any exception
    raise UserError(
      f"{path}: damaged, or not a torch.save file ({type(error).__name__} in its pickle); expected a state_dict; "
      "download or save it again"
    ) from None


def _next_pickle(stream: io.BytesIO) -> bytes:
  """Returns the bytes of the next pickle; raises ValueError for opcodes that no pickle of weights contains."""
  start = stream.tell()
  for opcode, argument, position in pickletools.genops(stream):
    if opcode.name in _REFUSED:
      raise ValueError(f"the opcode {opcode.name}")
    # CPython allocates the memo up to the largest index used, so a tiny file could exhaust the memory. In a regular
    # pickle an index is never larger than the number of bytes before it.
    if opcode.name in _MEMO and not (isinstance(argument, int) and argument <= (position or 0) - start):
      raise ValueError("a memo entry out of order")
  end = stream.tell()
  stream.seek(start)
  return stream.read(end - start)


class _Name:
  """A stand-in for a function or class named in a pickle; refuses any state that the pickle assigns to it."""

  __slots__ = ("_function",)

  def __init__(self, function: Callable[..., Any]):
    self._function = function

  def __call__(self, *arguments: Any) -> Any:
    return self._function(*arguments)

  def __setstate__(self, state: Any) -> None:
    raise pickle.UnpicklingError("state for a function")


class _StorageType(NamedTuple):
  """A stand-in for a storage type."""

  dtype: np.dtype


class _Dict(dict[Any, Any]):
  """A stand-in for OrderedDict; ignores its attributes, such as a state_dict's `_metadata`."""

  __slots__ = ()

  def __setstate__(self, state: Any) -> None:
    pass


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
  """Replaces torch._utils._rebuild_tensor and _rebuild_tensor_v2, which differ only in the ignored arguments."""
  del rest
  return Tensor(storage, offset, size, stride)


def _parameter(tensor: Any, *rest: Any) -> Any:
  """Replaces torch._utils._rebuild_parameter."""
  del rest
  return tensor


class _Unpickler(pickle.Unpickler):
  """Unpickler that accepts only the names that occur in a state_dict.

  Args:
    stream: Stream of a single pickle.
    path: Path of the file, for error messages.
  """

  def __init__(self, stream: io.BytesIO, path: Path):
    super().__init__(stream, fix_imports=False, encoding="utf-8")
    self._path = path
    self.storages: dict[str, Storage] = {}

  def find_class(self, module: str, name: str) -> Any:
    """Returns the stand-in for a name; raises UserError if there is none."""
    if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
      if name in STORAGES:
        return _StorageType(STORAGES[name])
      raise UserError(
        f"{self._path}: contains numbers of the unsupported type {_printable(module, name)}; expected one of "
        f"{', '.join(STORAGES)}; save the weights as float32"
      )
    # The complete list of names in a state_dict; anything else is refused.
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
    raise UserError(f"{self._path}: refers to {_printable(module, name)}, {HOLDS_CODE}")

  def persistent_load(self, pid: Any) -> Storage:
    """Records a storage, given as ("storage", type, key, device, length[, view metadata in old files])."""
    if not isinstance(pid, tuple) or pid[0] != "storage":
      raise pickle.UnpicklingError("a reference to something other than a storage")
    _, kind, key, _, length, *view = pid
    if not isinstance(kind, _StorageType) or type(key) is not str or view not in ([], [None]):
      raise pickle.UnpicklingError("a malformed storage")
    storage = Storage(key, kind.dtype, length)
    if self.storages.setdefault(key, storage) != storage:
      raise pickle.UnpicklingError("two different descriptions of a storage")
    return storage


def _printable(module: str, name: str) -> str:
  """Returns an untrusted name as short ASCII text that is safe to print in a terminal."""
  return ascii(f"{module}.{name}")[:100]
