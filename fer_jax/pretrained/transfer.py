"""Loads the weights of a pretrained network into the parameters of one of our networks."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict

from fer_jax.inference import model_file
from fer_jax.pretrained.sources import CLASSIFIER, Source, Variable, is_batch_counter, open_source, stage_of
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path

# The first convolution, in every network that accepts pretrained weights.
_FIRST_KERNEL = ("params", "stem", "conv", "kernel")
_COLOURS = 3
_MAX_NAMED = 3  # names shown of a longer list, in a message
SHIPPED = "default"  # value of `path` for the network shipped with the package


@dataclasses.dataclass(frozen=True)
class Report:
  """Summary of a transfer; `str` formats it as one log line.

  Attributes:
    source: Path of the file or folder.
    sha256: SHA-256 digest of the file, or of the run's result.json.
    taken: Number of arrays of the source that were used.
    filled: Number of arrays of the network that were filled; larger than `taken` if several extractors are filled
      with the same weights.
    unused: Names of the source's unused arrays, without PyTorch's batch counters.
    counters: Number of batch counters in the source.
    summed: Whether the first convolution was summed over its three colour channels to accept grey images.
  """

  source: str
  sha256: str
  taken: int
  filled: int
  unused: tuple[str, ...]
  counters: int
  summed: bool

  def __str__(self) -> str:
    text = f"{self.filled} arrays filled with {self.taken} of {self.source} (sha256 {self.sha256[:12]})"
    if self.summed:
      text += ", first convolution summed over its colour channels"
    unused = [_shortened(self.unused)] if self.unused else []
    unused += [f"{self.counters} batch counters"] if self.counters else []
    return f"{text}; not used: {' and '.join(unused) or 'none'}"


class PretrainedLayers(NamedTuple):
  """Layers filled with pretrained weights.

  Attributes:
    params: Parameters of the filled layers only, {layer name: nested dict of NumPy arrays}.
    stats: Batch statistics of the same layers.
    report: Summary of the transfer.
  """

  params: dict[str, Any]
  stats: dict[str, Any]
  report: Report


class _Slot(NamedTuple):
  """An array of the network to fill.

  Attributes:
    variable: Path of the array in the network.
    source_variable: Path without the extractor's prefix.
    name: Name of the matching array in the source.
    target: Array or jax.ShapeDtypeStruct with the required shape and dtype.
  """

  variable: Variable
  source_variable: Variable
  name: str
  target: Any


def load(
  path: str | Path,
  params: Mapping[str, Any],
  stats: Mapping[str, Any],
  *,
  extractors: tuple[str, ...],
  classifier: str,
  keep_classifier: bool = False,
) -> PretrainedLayers:
  """Fills a network's layers with the weights of a pretrained ResNet.

  Kernels are transposed from PyTorch's (O, I, H, W) and (out, in) to our (H, W, I, O) and (in, out). For a network with
  grey input, the kernel of the first convolution is summed over its three input channels, which gives the response of
  the original network to a grey image repeated in all three channels.

  Args:
    path: Weights file with torchvision's names (.pth, .pt, .safetensors, .npz), folder of a finished run, file written
      by `apps.export --format=safetensors`, or "default" for the network shipped with the package. No code in the file
      is executed.
    params: Parameters of the network to fill, {layer name: nested dict of arrays or jax.ShapeDtypeStruct}; only shapes
      and dtypes are used.
    stats: Batch statistics of the network, in the same form.
    extractors: Prefixes of layer names. The layers under each prefix are filled from the source's layers, whose names
      have no prefix: ("",) fills a plain ResNet, ("a_", "b_") fills both a_stem and b_stem from stem. Layers without
      any of the prefixes are skipped. If a run has a layer with the full name, prefix included, that layer is used.
    classifier: Name of the layer that returns the logits.
    keep_classifier: Whether to fill the classifier too, from the source's classifier; False skips it.

  Returns:
    Filled layers, each complete, in the dtypes of `params` and `stats`, and a report.

  Raises:
    UserError: The source cannot be read, has another architecture, or has values that are not finite floating-point
      numbers.
    ValueError: A prefix matches no layer, or there is no layer named `classifier`.
  """
  source = open_source(model_file.DEFAULT if str(path) == SHIPPED else local_path(path))
  layers = _layers(params, extractors, classifier, keep_classifier)
  collections = {"params": params, "stats": stats}
  tree = {
    collection: {layer: variables.get(layer, {}) for layer in layers} for collection, variables in collections.items()
  }
  flat = flatten_dict(tree, keep_empty_nodes=True)  # layers without arrays stay in the result
  slots = _slots(source, {variable: target for variable, target in flat.items() if target is not empty_node}, layers)
  unused = set(source.arrays) - {slot.name for slot in slots}
  _check_architecture(source, slots, unused)
  summed = False
  for slot in slots:
    array, was_summed = _fill(source, slot)
    flat[slot.variable] = array
    summed |= was_summed
  filled = unflatten_dict(flat)
  counters = {name for name in unused if is_batch_counter(name)}
  report = Report(
    str(source.path),
    source.sha256,
    taken=len({slot.name for slot in slots}),
    filled=len(slots),
    unused=tuple(sorted(unused - counters)),
    counters=len(counters),
    summed=summed,
  )
  return PretrainedLayers(filled["params"], filled["stats"], report)


def _layers(
  params: Mapping[str, Any], extractors: tuple[str, ...], classifier: str, keep_classifier: bool
) -> dict[str, str]:
  """Returns {name of a layer to fill: its name in the pretrained network}."""
  layers = {}
  # The longest matching prefix applies: "" matches every layer.
  for layer in params:
    prefix = max((p for p in extractors if layer.startswith(p)), key=len, default=None)
    if layer != classifier and prefix is not None:
      layers[layer] = layer.removeprefix(prefix)
  for prefix in extractors:
    if not any(layer.startswith(prefix) for layer in layers):
      raise ValueError(f"extractors={extractors}: no layer begins with {prefix!r}; they are {', '.join(params)}")
  if classifier not in params:
    raise ValueError(f"classifier={classifier!r}: no layer is named {classifier!r}; they are {', '.join(params)}")
  return {**layers, classifier: CLASSIFIER} if keep_classifier else layers


def _slots(source: Source, targets: Mapping[Variable, Any], layers: Mapping[str, str]) -> list[_Slot]:
  """Returns the arrays to fill; raises UserError if the source cannot have a counterpart of one."""
  slots = []
  for variable, target in targets.items():
    collection, layer, *inside = variable
    source_variable = (collection, layers[layer], *inside)
    # The full name goes first: a two-extractor run fills a_stem and b_stem from its own a_stem and b_stem.
    own_name = source.name_of(variable)
    name = own_name if own_name in source.arrays else source.name_of(source_variable)
    if name is None:
      raise UserError(
        f"{source.path}: torchvision's ResNet has no counterpart of {_format_path(variable)}; this network can only be "
        "filled from the folder of a finished run"
      )
    slots.append(_Slot(variable, source_variable, name, target))
  return slots


def _check_architecture(source: Source, slots: list[_Slot], unused: Iterable[str]) -> None:
  """Raises UserError unless the source has all arrays of the network, and no others in the network's stages."""
  missing = [slot for slot in slots if slot.name not in source.arrays]
  if missing:
    names = _shortened([f"{slot.name} for {_format_path(slot.variable)}" for slot in missing])
    raise UserError(
      f"{source.path}: {len(missing)} of {len(slots)} arrays are missing ({names}); it seems to have another "
      f"architecture: {source.advice}"
    )
  # Unused arrays in other stages, such as a skipped classifier, are allowed; in the same stages they mean more blocks.
  stages = {stage_of(slot.name) for slot in slots}
  unmatched = sorted(name for name in unused if stage_of(name) in stages and not is_batch_counter(name))
  if unmatched:
    raise UserError(
      f"{source.path}: the network has no counterpart of {len(unmatched)} of its arrays ({_shortened(unmatched)}); "
      f"it seems to have another architecture: {source.advice}"
    )


def _fill(source: Source, slot: _Slot) -> tuple[np.ndarray, bool]:
  """Returns the array for a slot, and whether it was summed over its colour channels."""
  found, shape = source.arrays[slot.name], tuple(slot.target.shape)
  if not jnp.issubdtype(found.dtype, jnp.floating):
    raise UserError(
      f"{source.path}: {slot.name} has dtype {found.dtype}; expected a floating-point dtype; convert the weights"
    )
  summed = slot.source_variable == _FIRST_KERNEL and found.ndim == len(shape) and shape[2] == 1
  summed = summed and found.shape == source.to_source_shape((*shape[:2], _COLOURS, shape[3]))
  if not summed and found.shape != source.to_source_shape(shape):
    raise UserError(
      f"{source.path}: {slot.name} is {_format_shape(found.shape)}, but {_format_path(slot.variable)} needs "
      f"{_format_shape(source.to_source_shape(shape))}; {_hint(source, slot, found)}"
    )
  array = source.to_our_layout(found)
  if summed:  # [H, W, 3, O] -> [H, W, 1, O], accumulated in float64
    array = array.astype(np.float64).sum(axis=2, keepdims=True)
  with np.errstate(over="ignore"):  # values too large for the dtype become inf and are rejected below
    array = np.array(array, slot.target.dtype, order="C")
  if not np.isfinite(array).all():
    raise UserError(
      f"{source.path}: {slot.name} has values that are not finite in {array.dtype}; expected trained weights; use "
      "another file"
    )
  return array, summed


def _hint(source: Source, slot: _Slot, found: np.ndarray) -> str:
  """Returns advice on a shape mismatch: the config key that most likely causes it."""
  needed = slot.target.shape
  if slot.source_variable[1] == CLASSIFIER:
    return "skip the classifier (config.pretrained.classifier=False), or choose weights with the same classes"
  if found.ndim != len(needed):
    return source.advice
  ours = source.to_our_layout(found).shape
  if slot.source_variable == _FIRST_KERNEL and ours[:2] != needed[:2]:
    return "compare config.model.stem"
  if slot.source_variable == _FIRST_KERNEL and ours[3] == needed[3]:
    return f"the network expects images with {needed[2]} channels"
  # The same kernel size (and number of axes) but other channel counts: the width differs.
  return "compare config.model.width" if ours[:-2] == needed[:-2] else source.advice


def _format_path(variable: Variable) -> str:
  return "/".join(variable[1:])


def _format_shape(shape: tuple[int, ...]) -> str:
  return "x".join(map(str, shape)) or "a single number"


def _shortened(names: Iterable[str]) -> str:
  names = list(names)
  return ", ".join(names[:_MAX_NAMED]) + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")
