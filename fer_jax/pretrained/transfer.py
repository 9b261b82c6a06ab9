"""Weights of a pretrained network, put into the parameters of one of ours."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict

from fer_jax.errors import UserError
from fer_jax.pretrained import model_file
from fer_jax.pretrained.sources import CLASSIFIER, Source, Variable, is_batch_counter, open_source, stage_of

# The kernel that reads the image, in every network that takes weights of another one.
_FIRST = ("params", "stem", "conv", "kernel")
_COLOURS = 3
_NAMED = 3  # of a longer list, in a message
SHIPPED = "default"  # instead of a path


@dataclasses.dataclass(frozen=True)
class Report:
  """What was taken from where; `str` makes a line for a log of it.

  Attributes:
    source: path of the file or folder.
    sha256: of the file, or of the run's result.json.
    taken: arrays of the source that were used.
    filled: arrays of the network that were filled; more than were taken where extractors are copies.
    unused: names of the arrays that were left, without PyTorch's counters of batches.
    counters: how many of those there were.
    summed: whether the first convolution, made for colour, was summed over its colours for grey images.
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
      text += ", the first convolution summed over its colours"
    left = [_few(self.unused)] if self.unused else []
    left += [f"{self.counters} counters of batches"] if self.counters else []
    return f"{text}; not used: {' and '.join(left) or 'none'}"


class Loaded(NamedTuple):
  """Layers filled with pretrained weights.

  Attributes:
    params: {layer name: nested dict of NumPy arrays}, of the filled layers alone.
    stats: the batch statistics of the same layers.
    report: what was taken from where.
  """

  params: dict[str, Any]
  stats: dict[str, Any]
  report: Report


class _Slot(NamedTuple):
  """An array of the network that is to be filled.

  Attributes:
    variable: its own name.
    bare: its name without the extractor's prefix.
    name: the source's name for it.
    target: its shape and dtype.
  """

  variable: Variable
  bare: Variable
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
) -> Loaded:
  """Fills a network's layers with the weights of a pretrained ResNet.

  Kernels are brought from PyTorch's (O, I, H, W) and (out, in) to our (H, W, I, O) and (in, out). A network for grey
  images takes the sum of the first convolution over its three colours: a grey image, repeated three times, would have
  got the same response from the original.

  Args:
    path: a file of weights under torchvision's names (.pth, .pt, .safetensors, .npz), the folder of a finished run of
      ours, a file that `apps.export --format=safetensors` wrote, or "default", the network that the package ships.
      Nothing that a file holds is executed.
    params: {layer name: nested dict of arrays or jax.ShapeDtypeStruct} of the network to be filled; only shapes and
      dtypes are looked at.
    stats: its batch statistics.
    extractors: prefixes of the names of layers; the layers under each are a copy of the pretrained network's, whose
      names have no prefix. ("",) is a plain ResNet; ("a_", "b_") fills a_stem and b_stem with the same. Layers under
      none of them are left out. A run's layers of the very same name go first.
    classifier: name of the layer that gives the logits.
    keep_classifier: fill it too, with the classifier of the source; else it is left out.

  Returns:
    the filled layers, whole, in the dtypes of `params` and `stats`, and a report.

  Raises:
    UserError: the source cannot be read, is of another architecture, or holds numbers that no training can start from.
    ValueError: a prefix that no layer begins with, or a classifier that there is not.
  """
  source = open_source(model_file.DEFAULT if str(path) == SHIPPED else Path(path).expanduser())
  layers = _layers(params, extractors, classifier, keep_classifier)
  whole = {"params": params, "stats": stats}
  tree = {collection: {layer: of.get(layer, {}) for layer in layers} for collection, of in whole.items()}
  flat = flatten_dict(tree, keep_empty_nodes=True)
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
  return Loaded(filled["params"], filled["stats"], report)


def _layers(
  params: Mapping[str, Any], extractors: tuple[str, ...], classifier: str, keep_classifier: bool
) -> dict[str, str]:
  """Returns {name of a layer to be filled: its name in the pretrained network}."""
  layers = {}
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
  """Returns what is to be filled; raises UserError where the source cannot have a name for it."""
  slots = []
  for variable, target in targets.items():
    collection, layer, *inside = variable
    bare = (collection, layers[layer], *inside)
    own = source.name_of(variable)
    name = own if own in source.arrays else source.name_of(bare)
    if name is None:
      raise UserError(
        f"{source.path}: torchvision's ResNet has nothing for {_path(variable)}; such a network takes weights from "
        "the folder of a finished run only"
      )
    slots.append(_Slot(variable, bare, name, target))
  return slots


def _check_architecture(source: Source, slots: list[_Slot], unused: Iterable[str]) -> None:
  """Raises UserError unless the source has all of the network, and no more of the stages that the network has."""
  missing = [slot for slot in slots if slot.name not in source.arrays]
  if missing:
    few = _few([f"{slot.name} for {_path(slot.variable)}" for slot in missing])
    raise UserError(
      f"{source.path}: {len(missing)} of {len(slots)} arrays are missing ({few}); it seems to be of another "
      f"architecture: {source.advice}"
    )
  stages = {stage_of(slot.name) for slot in slots}
  beyond = sorted(name for name in unused if stage_of(name) in stages and not is_batch_counter(name))
  if beyond:
    raise UserError(
      f"{source.path}: the network has no place for {len(beyond)} of its arrays ({_few(beyond)}); it seems to be of "
      f"another architecture: {source.advice}"
    )


def _fill(source: Source, slot: _Slot) -> tuple[np.ndarray, bool]:
  """Returns an array for a slot, and whether it was summed over the colours."""
  found, shape = source.arrays[slot.name], tuple(slot.target.shape)
  if not jnp.issubdtype(found.dtype, jnp.floating):
    raise UserError(
      f"{source.path}: {slot.name} holds {found.dtype} numbers; expected floating-point ones; convert the weights"
    )
  summed = slot.bare == _FIRST and found.ndim == len(shape) and shape[2] == 1
  summed = summed and found.shape == source.shape_of((*shape[:2], _COLOURS, shape[3]))
  if not summed and found.shape != source.shape_of(shape):
    raise UserError(
      f"{source.path}: {slot.name} is {_size(found.shape)}, but {_path(slot.variable)} needs "
      f"{_size(source.shape_of(shape))}; {_hint(source, slot, found)}"
    )
  array = source.in_our_order(found)
  if summed:
    array = array.astype(np.float64).sum(axis=2, keepdims=True)
  with np.errstate(over="ignore"):  # what is too large for the dtype becomes infinite, and is refused with the rest
    array = np.array(array, slot.target.dtype, order="C")
  if not np.isfinite(array).all():
    raise UserError(
      f"{source.path}: {slot.name} holds numbers that are not finite in {array.dtype}; expected trained weights; use "
      "another file"
    )
  return array, summed


def _hint(source: Source, slot: _Slot, found: np.ndarray) -> str:
  """Says which key of the config a wrong shape points to."""
  needed = slot.target.shape
  if slot.bare[1] == CLASSIFIER:
    return "leave the classifier out (config.pretrained.classifier=False), or choose weights of the same classes"
  if found.ndim != len(needed):
    return source.advice
  ours = source.in_our_order(found).shape
  if slot.bare == _FIRST and ours[:2] != needed[:2]:
    return "compare config.model.stem"
  if slot.bare == _FIRST and ours[3] == needed[3]:
    return f"the network reads images of {needed[2]} channels"
  return "compare config.model.width" if ours[:-2] == needed[:-2] else source.advice


def _path(variable: Variable) -> str:
  return "/".join(variable[1:])


def _size(shape: tuple[int, ...]) -> str:
  return "x".join(map(str, shape)) or "a single number"


def _few(names: Iterable[str]) -> str:
  names = list(names)
  return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
