"""A trained network as one safetensors file, whose header describes the network and its training data.

The format depends neither on an orbax version nor on a module path: the network is stored as a name in
`fer_jax.models.MODELS` with its hyper-parameters, and each array under its collection, layer and path in the layer,
such as "params/stem/conv/kernel". An int8 kernel is followed by its scale, one number per output channel, under the
same name with a suffix: "params/stem/conv/kernel.scale".
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from fer_jax.inference.quantization import Quantized, cast, dequantize, quantize
from fer_jax.pretrained import weights_file
from fer_jax.runtime.errors import UserError

SUFFIX = ".safetensors"
DEFAULT = Path(__file__).with_name(f"fer2013{SUFFIX}")  # the network shipped with the package
BITS = (8, 16, 32)
_FORMAT = "fer_jax model 1"
_SCALE = ".scale"
_COLLECTIONS = ("params", "stats")
_DESCRIPTION, _LAYERS, _DIGEST = "description", "layers", "sha256"


class StoredModel(NamedTuple):
  """A trained network.

  Attributes:
    params: Parameters, {layer name: nested dict of float32 arrays}.
    stats: Batch statistics, {layer name: nested dict of float32 arrays}.
    description: JSON values under "model" (name and hyper-parameters), "precision", "class_names", "shape", "crop",
      "temperature" and "origin"; see `fer_jax.inference.trained_model.TrainedModel`.
  """

  params: dict[str, Any]
  stats: dict[str, Any]
  description: dict[str, Any]


def is_model_file(path: Path) -> bool:
  """Returns whether a weights file has the header of a trained network; raises UserError if it cannot be read."""
  return path.suffix == SUFFIX and path.is_file() and "form" in _header(path)


def write(path: Path, model: StoredModel, bits: int = 32) -> None:
  """Writes a trained network.

  Args:
    path: Path of the file; an existing file is overwritten.
    model: Trained network to write.
    bits: Bits per number in large kernels: 32, 16 (float16), or 8 (int8 with one scale per output channel).

  Raises:
    OSError: The file cannot be written.
  """
  # Only large kernels are quantized or cast; biases, normalisation parameters and batch statistics stay float32.
  params = {8: quantize, 16: lambda params: cast(params, jnp.float16), 32: lambda params: params}[bits](model.params)
  tensors: dict[str, np.ndarray] = {}
  for name, value in flatten_dict({"params": params, "stats": model.stats}, sep="/").items():
    if isinstance(value, Quantized):
      tensors[name], tensors[name + _SCALE] = np.asarray(value.values), np.asarray(value.scale)
    else:
      tensors[name] = np.asarray(value)
  json_fields = {_DESCRIPTION: json.dumps(model.description), _LAYERS: json.dumps(list(model.params))}
  header = {"form": _FORMAT, **json_fields, _DIGEST: _digest(tensors)}
  path.write_bytes(safetensors.numpy.save(tensors, header))


def read(path: Path) -> StoredModel:
  """Reads a file written by `write`; every array is returned as float32.

  Raises:
    UserError: The file does not exist, is damaged, or is not a trained network of this package.
  """
  if path == DEFAULT and not path.is_file():
    raise UserError(f"{path}: no such file, although it is part of the package; install fer_jax again")
  arrays = weights_file.read(path)
  header = _header(path)
  if header.get("form") != _FORMAT:
    raise UserError(
      f"{path}: not a trained network of fer_jax; expected the header {_FORMAT!r}; weights from other programs can "
      "only be loaded with config.pretrained.path"
    )
  if header.get(_DIGEST) != _digest(arrays):
    raise UserError(f"{path}: damaged: its arrays do not match the checksum in its header; {_advice(path)}")
  # Join each int8 kernel with its scale; the ".scale" entries themselves are not leaves of the tree.
  tree = {
    name: Quantized(jnp.asarray(array), jnp.asarray(arrays[name + _SCALE])) if name + _SCALE in arrays else array
    for name, array in arrays.items()
    if not name.endswith(_SCALE)
  }
  restored = jax.tree.map(np.asarray, dequantize(unflatten_dict(tree, sep="/")))
  # A layer without parameters or statistics has no array in the file: restore it as an empty dict.
  params, stats = (
    {layer: restored.get(collection, {}).get(layer, {}) for layer in json.loads(header[_LAYERS])}
    for collection in _COLLECTIONS
  )
  return StoredModel(params, stats, json.loads(header[_DESCRIPTION]))


def _advice(path: Path) -> str:
  return "install fer_jax again" if path == DEFAULT else "copy or export it again"


def _header(path: Path) -> Mapping[str, str]:
  try:
    with safetensors.safe_open(path, "numpy") as file:
      return file.metadata() or {}
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(f"{path}: damaged, or not a {SUFFIX} file ({error}); {_advice(path)}") from None


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  # Sorted by name: safetensors does not keep the order of its arrays.
  for name in sorted(tensors):
    digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
    digest.update(np.ascontiguousarray(tensors[name]).tobytes())
  return digest.hexdigest()
