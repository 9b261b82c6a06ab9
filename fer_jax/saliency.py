"""Where in a face a network finds its reasons for a class: Grad-CAM, Selvaraju et al. 2017 (arXiv:1610.02391).

A convolutional network keeps the places of a picture up to its last maps A. A channel k of them speaks for a class c as
much as the class's score y_c, before the softmax, grows with it: a_k = sum over places of dy_c / dA_k (eq. 1, without
its constant, which for maps of one size the normalization below would undo). What speaks for the class at a place is
ReLU(sum_k a_k A_k) (eq. 2). The paper takes one layer; where the logits read several, which may differ in size, their
sums over k are added up before the ReLU, an extension of this project's, in which the sum over places, not the mean, is
chosen so that each layer counts by its first-order contribution to the score. Of a network that ends in global average
pooling and a linear layer, this is its class activation map (Zhou et al. 2016, arXiv:1512.04150).
"""

import copy
import functools
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from fer_jax.classifier import LARGEST_BATCH, Classifier, in_batches
from fer_jax.data.augment import standardize
from fer_jax.models.network import Network, Tree

REFERENCE = "Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391"
_OPACITY = 0.75  # of the colours where a map is 1: the face is to be recognised below them
# As even to the eye as its numbers are, for those with a weak sense of colour too, and in print without any.
_COLOURS = cv2.COLORMAP_INFERNO


def last_maps(network: Network, params: Tree, stats: Tree, image: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
  """Finds the layers whose maps [B, h, w, D] the logits depend on without a further layer's maps between.

  A map has more than one place. In most networks it is one layer's, the last that puts out maps. There are several
  where copies of a network meet (both extractors of the bilinear one, both channels of the two-channel one), where
  every level of a pyramid is read, or where a shortcut branch ends beside a stage. All that the logits know of the
  places in an image, they know from these layers.

  Returns:
    the shapes of their outputs by name, in walk order. Nothing is computed for that: parameters, statistics and image
    may be `jax.ShapeDtypeStruct`.
  """
  maps = _maps(network, params, stats, image)

  def above(params: Tree, stats: Tree, image: jax.Array, outputs: dict[str, jax.Array]) -> jax.Array:
    def apply(name: str, *inputs: jax.Array) -> jax.Array:
      return outputs[name] if name in outputs else _evaluate(network, params, stats, name, inputs)

    return network.walk(apply, image)[0]

  jaxpr = jax.make_jaxpr(above)(params, stats, image, maps).jaxpr
  needed = {each for each in jaxpr.outvars if not isinstance(each, Literal)}
  for equation in reversed(jaxpr.eqns):
    if not needed.isdisjoint(equation.outvars):
      needed.update(each for each in equation.invars if not isinstance(each, Literal))
  places = jaxpr.invars[len(jaxpr.invars) - len(maps) :]
  read = {name for name, place in zip(sorted(maps), places, strict=True) if place in needed}  # JAX sorts a dict's names
  return {name: shape for name, shape in maps.items() if name in read}


def grad_cam(
  network: Network,
  params: Tree,
  stats: Tree,
  image: jax.Array,
  target: jax.Array | None = None,
  layer: str | None = None,
) -> jax.Array:
  """Maps where an image speaks for a class: eq. 1-2 of arXiv:1610.02391, in one walk and the way back to the maps.

  By default this is of all of `last_maps`, their sums over channels enlarged to the largest one's size and added up. So
  it extends the paper's single layer, with weights that are sums over places, not means: each map counts by its
  first-order contribution to the score, a channel of a network that the fusion coefficient shuts out by nothing.

  Args:
    network: the walk.
    params: of all layers.
    stats: of all layers.
    image: float32 [B, H, W, C], standardized.
    target: int32 [B], the class of each image that is asked about; None for the one with the highest logit.
    layer: whose maps to take; what reaches the logits around it is not seen. None for `last_maps`.

  Returns:
    float32 [B, h, w], each image's from 0 to 1, its highest value; zeros where nothing speaks for the class.

  Raises:
    ValueError: the layer puts out no map, or two where the walk calls it twice; or there is none in the network.
  """
  maps = _one_map(network, params, stats, image, layer) if layer else last_maps(network, params, stats, image)
  if not maps:
    raise ValueError("no layer of the network puts out a map of more than one place, so it knows of no places")

  def score(added: Tree) -> tuple[jax.Array, Tree]:
    seen: Tree = {}

    def apply(name: str, *inputs: jax.Array) -> jax.Array:
      output = _evaluate(network, params, stats, name, inputs)
      if name not in added:
        return output
      if name in seen:
        raise ValueError(f"layer {name!r} is called twice by the walk: expected one map of it; name another layer")
      seen[name] = output
      return output + added[name]

    logits, _ = network.walk(apply, image)
    classes = logits.argmax(axis=-1) if target is None else target
    # In evaluation no image knows of the others, so the gradient of the sum holds that of each.
    return jnp.take_along_axis(logits, classes[:, None], axis=-1).sum(), seen

  nothing = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in maps.items()}
  gradients, seen = jax.grad(score, has_aux=True)(nothing)
  height, width = max((shape.shape[1:3] for shape in maps.values()), key=math.prod)
  found = jnp.zeros((len(image), height, width), jnp.float32)
  for name in maps:
    weights = gradients[name].astype(jnp.float32).sum(axis=(1, 2))
    found += enlarge(jnp.einsum("bhwk,bk->bhw", seen[name].astype(jnp.float32), weights), height, width)
  found = jax.nn.relu(found)
  largest = found.max(axis=(1, 2), keepdims=True)
  return found / jnp.where(largest > 0, largest, 1.0)


def enlarge(maps: jax.Array, height: int, width: int) -> jax.Array:
  """Resizes maps [N, h, w] to [N, height, width], bilinearly: values stay in their range."""
  if maps.shape[1:] == (height, width):
    return maps
  return jax.image.resize(maps, (len(maps), height, width), "linear")


def paint(face: np.ndarray, saliency: np.ndarray) -> np.ndarray:
  """Paints a map over a face: grey where the map is 0, through violet and red to yellow where it is 1.

  Args:
    face: uint8 [H, W, C], one or three (RGB) channels, or [H, W], grey.
    saliency: float [H, W], 0 to 1.

  Returns:
    uint8 [H, W, 3], RGB.
  """
  grey = face if face.ndim == 2 else cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) if face.shape[-1] == 3 else face[..., 0]
  saliency = saliency.astype(np.float32)[..., None]
  # In place: three channels of float32, of a large photograph, are a gigabyte.
  painted = cv2.applyColorMap(np.round(255 * saliency).astype(np.uint8), _COLOURS)[..., ::-1].astype(np.float32)
  painted -= grey[..., None]
  painted *= _OPACITY * saliency
  painted += grey[..., None]
  return np.round(painted, out=painted).astype(np.uint8)


class Explainer:
  """Explains what a classifier says of faces, compiled once for each of a few batch sizes.

  Args:
    classifier: whose answers are asked about.
    layer: whose maps to take, as in `grad_cam`.
  """

  def __init__(self, classifier: Classifier, layer: str | None = None):
    self._program = jax.jit(functools.partial(_explain, classifier.network, layer))
    self._take(classifier)

  def of(self, classifier: Classifier) -> "Explainer":
    """Returns the explainer of another training of the same network: what is compiled, both share."""
    other = copy.copy(self)
    other._take(classifier)
    return other

  def explain(self, faces: np.ndarray, target: np.ndarray | None = None, batch_size: int = LARGEST_BATCH) -> np.ndarray:
    """Maps where faces speak for a class.

    Args:
      faces: uint8 [N, H, W, C], as the classifier's `shape` says.
      target: int [N], the class that each is asked about; None for the predicted one.
      batch_size: how many go at once.

    Returns:
      float32 [N, H, W], from 0 to 1.

    Raises:
      ValueError: the faces have another shape or type, or a class is none of the classifier's.
    """
    self._classifier.check(faces)
    classes = len(self._classifier.class_names)
    if target is not None and (target.shape != faces.shape[:1] or ((target < 0) | (target >= classes)).any()):
      raise ValueError(
        f"target is {target.tolist()}: expected a class of each of {len(faces)} faces, 0 to {classes - 1}"
      )
    if not len(faces):
      return np.zeros(faces.shape[:3], np.float32)
    asked = () if target is None else (target.astype(np.int32),)
    return in_batches(functools.partial(self._program, *self._variables), (faces, *asked), batch_size)

  def _take(self, classifier: Classifier) -> None:
    self._classifier = classifier
    self._variables = jax.device_put((classifier.params, classifier.stats))


def _explain(
  network: Network, layer: str | None, params: Tree, stats: Tree, faces: jax.Array, target: jax.Array | None = None
) -> jax.Array:
  maps = grad_cam(network, params, stats, standardize(faces), target, layer)
  return enlarge(maps, *faces.shape[1:3])


def _maps(network: Network, params: Tree, stats: Tree, image: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of all layers' outputs that are maps of more than one place, in walk order."""
  found: dict[str, jax.ShapeDtypeStruct] = {}

  def walk(params: Tree, stats: Tree, image: jax.Array) -> jax.Array:
    def apply(name: str, *inputs: jax.Array) -> jax.Array:
      output = _evaluate(network, params, stats, name, inputs)
      if output.ndim == 4 and output.shape[1] * output.shape[2] > 1:
        found[name] = jax.ShapeDtypeStruct(output.shape, output.dtype)
      return output

    return network.walk(apply, image)[0]

  jax.eval_shape(walk, params, stats, image)
  return found


def _one_map(
  network: Network, params: Tree, stats: Tree, image: jax.Array, layer: str
) -> dict[str, jax.ShapeDtypeStruct]:
  maps = _maps(network, params, stats, image)
  if layer not in maps:
    raise ValueError(f"layer {layer!r} puts out no map: expected one of {', '.join(maps)}")
  return {layer: maps[layer]}


def _evaluate(network: Network, params: Tree, stats: Tree, name: str, inputs: tuple[jax.Array, ...]) -> jax.Array:
  output, _ = network.call(name, params[name], stats[name], inputs, None)
  return output
