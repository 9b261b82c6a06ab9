"""Saliency maps of a network's predictions: Grad-CAM, Selvaraju et al. 2017 (arXiv:1610.02391).

Let A [h, w, D] be the last feature maps of a convolutional network and y_c the logit of class c. The weight of channel
k is a_k = sum over positions of dy_c / dA_k (eq. 1, without the constant 1/Z, which cancels in the normalization below
for feature maps of equal size). The saliency map is ReLU(sum_k a_k A_k) (eq. 2), scaled to a maximum of 1.

The paper uses one layer. If the logits depend on the feature maps of several layers, which may differ in size, this
module resizes their sums over k to the largest size and adds them before the ReLU. This extension is why a_k is a sum
over positions and not a mean: each layer then counts with its first-order contribution to the logit.

For a network that ends in global average pooling and a linear layer, Grad-CAM equals the class activation map (Zhou et
al. 2016, arXiv:1512.04150).
"""

import copy
import functools
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from fer_jax.data.augment import standardize
from fer_jax.inference.trained_model import LARGEST_BATCH, TrainedModel, in_batches
from fer_jax.models.network import Network, Tree

REFERENCE = "Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391"
_OPACITY = 0.75  # of the overlay where the map is 1; below 1 so that the face stays visible
# Perceptually uniform, and readable for colour-blind viewers and in greyscale print.
_COLOURS = cv2.COLORMAP_INFERNO


def last_feature_maps(network: Network, params: Tree, stats: Tree, image: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
  """Finds the last feature maps: those the logits depend on directly, not only through later feature maps.

  A feature map here is an output [B, h, w, D] with h*w > 1. Most networks have one such layer, the last convolutional
  one. There are several if extractors are combined (both extractors of the bilinear model, both channels of the
  two-channel model), if the classifier reads every level of a pyramid, or if a shortcut branch ends next to a stage.
  Together these layers carry all spatial information that reaches the logits.

  Nothing is computed: all arguments may be `jax.ShapeDtypeStruct`.

  Args:
    network: Network to inspect.
    params: Parameters of all layers.
    stats: Batch statistics of all layers.
    image: Images, float32 [B, H, W, C].

  Returns:
    Shapes and dtypes of the layers' outputs by layer name, in walk order.
  """
  maps = _feature_maps(network, params, stats, image)

  def logits_from_maps(params: Tree, stats: Tree, image: jax.Array, outputs: dict[str, jax.Array]) -> jax.Array:
    def apply(name: str, *inputs: jax.Array) -> jax.Array:
      return outputs[name] if name in outputs else _evaluate(network, params, stats, name, inputs)

    return network.walk(apply, image)[0]

  # Trace the network with all feature maps given as inputs: an input that reaches the logits is a last feature map,
  # because the layers that compute the feature maps are not part of this program.
  jaxpr = jax.make_jaxpr(logits_from_maps)(params, stats, image, maps).jaxpr
  # Walk the equations backwards and collect every variable that the logits depend on.
  needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
  for equation in reversed(jaxpr.eqns):
    if not needed.isdisjoint(equation.outvars):
      needed.update(atom for atom in equation.invars if not isinstance(atom, Literal))
  # The last inputs of the jaxpr are the feature maps, in the order of their names: JAX sorts the keys of a dict.
  map_variables = jaxpr.invars[len(jaxpr.invars) - len(maps) :]
  needed_names = {name for name, variable in zip(sorted(maps), map_variables, strict=True) if variable in needed}
  return {name: shape for name, shape in maps.items() if name in needed_names}


def grad_cam(
  network: Network,
  params: Tree,
  stats: Tree,
  image: jax.Array,
  target: jax.Array | None = None,
  layer: str | None = None,
) -> jax.Array:
  """Computes Grad-CAM saliency maps (eq. 1-2 of arXiv:1610.02391) with one forward pass and one partial backward pass.

  By default all layers in `last_feature_maps` are used: their weighted sums over channels are resized to the largest
  of their sizes and added, see the module docstring. A layer without influence on the logit, such as one that a fusion
  coefficient of 0 switches off, contributes nothing.

  Args:
    network: Network to explain.
    params: Parameters of all layers.
    stats: Batch statistics of all layers.
    image: Standardized images, float32 array of shape [B, H, W, C].
    target: Class to explain for each image, int32 array of shape [B]; None for the class with the highest logit.
    layer: Name of the layer whose feature map is used; paths to the logits that bypass it are ignored. None for
      `last_feature_maps`.

  Returns:
    Saliency maps, float32 array of shape [B, h, w]; each is scaled to a maximum of 1, or is zero where no position
    contributes to the class.

  Raises:
    ValueError: The layer has no feature map or is called twice in a forward pass, or no layer of the network has a
      feature map.
  """
  maps = (
    _feature_map(network, params, stats, image, layer) if layer else last_feature_maps(network, params, stats, image)
  )
  if not maps:
    raise ValueError("no layer of the network outputs a feature map with more than one position; Grad-CAM needs one")

  # Adding zeros to the feature maps and differentiating with respect to them yields dy_c / dA in a single pass.
  def score(offsets: Tree) -> tuple[jax.Array, Tree]:
    activations: Tree = {}

    def apply(name: str, *inputs: jax.Array) -> jax.Array:
      output = _evaluate(network, params, stats, name, inputs)
      if name not in offsets:
        return output
      if name in activations:
        raise ValueError(f"layer {name!r} is called twice in one forward pass: expected once; choose another layer")
      activations[name] = output
      return output + offsets[name]

    logits, _ = network.walk(apply, image)
    classes = logits.argmax(axis=-1) if target is None else target
    # In evaluation mode images do not interact, so the gradient of the sum contains the gradient of each logit.
    return jnp.take_along_axis(logits, classes[:, None], axis=-1).sum(), activations

  zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in maps.items()}
  gradients, activations = jax.grad(score, has_aux=True)(zeros)
  height, width = max((shape.shape[1:3] for shape in maps.values()), key=math.prod)
  saliency = jnp.zeros((len(image), height, width), jnp.float32)
  for name in maps:
    # Gradients [B, h, w, D] -> channel weights a_k [B, D] (eq. 1); the weighted sum over channels is [B, h, w] (eq. 2).
    weights = gradients[name].astype(jnp.float32).sum(axis=(1, 2))
    saliency += resize_maps(jnp.einsum("bhwk,bk->bhw", activations[name].astype(jnp.float32), weights), height, width)
  saliency = jax.nn.relu(saliency)
  # Scale to a maximum of 1; a map of zeros stays zero.
  largest = saliency.max(axis=(1, 2), keepdims=True)
  return saliency / jnp.where(largest > 0, largest, 1.0)


def resize_maps(maps: jax.Array, height: int, width: int) -> jax.Array:
  """Resizes maps from [N, h, w] to [N, height, width] bilinearly, which keeps values in their range."""
  if maps.shape[1:] == (height, width):
    return maps
  return jax.image.resize(maps, (len(maps), height, width), "linear")


def overlay(face: np.ndarray, saliency: np.ndarray) -> np.ndarray:
  """Overlays a saliency map on a face: grey where the map is 0, through violet and red to yellow where it is 1.

  Args:
    face: Face, uint8 array of shape [H, W], [H, W, 1] (grey) or [H, W, 3] (RGB).
    saliency: Saliency map, float array of shape [H, W] with values from 0 to 1.

  Returns:
    RGB image, uint8 array of shape [H, W, 3].
  """
  grey = face if face.ndim == 2 else cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) if face.shape[-1] == 3 else face[..., 0]
  saliency = saliency.astype(np.float32)[..., None]
  # grey + opacity * saliency * (colour - grey), in-place: the float32 array of a large photograph is about 1 GB.
  image = cv2.applyColorMap(np.round(255 * saliency).astype(np.uint8), _COLOURS)[..., ::-1].astype(np.float32)
  image -= grey[..., None]
  image *= _OPACITY * saliency
  image += grey[..., None]
  return np.round(image, out=image).astype(np.uint8)


class Explainer:
  """Computes Grad-CAM maps for a model; compiled once per batch size.

  Args:
    model: Trained model to explain.
    layer: Name of the layer whose feature map is used, see `grad_cam`; None for `last_feature_maps`.
  """

  def __init__(self, model: TrainedModel, layer: str | None = None):
    self._program = jax.jit(functools.partial(_explain, model.network, layer))
    self._set_model(model)

  def with_model(self, model: TrainedModel) -> "Explainer":
    """Returns an explainer for another run of the same network, which shares the compiled programs.

    Args:
      model: Trained model with the same network and other weights.
    """
    other = copy.copy(self)
    other._set_model(model)
    return other

  def explain(self, faces: np.ndarray, target: np.ndarray | None = None, batch_size: int = LARGEST_BATCH) -> np.ndarray:
    """Computes a saliency map for each face, in the resolution of the faces.

    Args:
      faces: Faces, uint8 array of shape [N, H, W, C] with (H, W, C) equal to the model's `shape`.
      target: Class to explain for each face, int array of shape [N]; None for the predicted class.
      batch_size: Maximum number of faces per call of the network.

    Returns:
      Saliency maps, float32 array of shape [N, H, W] with values from 0 to 1.

    Raises:
      ValueError: The faces have another shape or dtype, or `target` has another shape or an invalid class.
    """
    self._model.check(faces)
    classes = len(self._model.class_names)
    if target is not None and (target.shape != faces.shape[:1] or ((target < 0) | (target >= classes)).any()):
      raise ValueError(
        f"target is {target.tolist()}: expected a class for each of {len(faces)} faces, 0 to {classes - 1}"
      )
    if not len(faces):
      return np.zeros(faces.shape[:3], np.float32)
    targets = () if target is None else (target.astype(np.int32),)
    return in_batches(functools.partial(self._program, *self._variables), (faces, *targets), batch_size)

  def _set_model(self, model: TrainedModel) -> None:
    self._model = model
    self._variables = jax.device_put((model.params, model.stats))


def _explain(
  network: Network, layer: str | None, params: Tree, stats: Tree, faces: jax.Array, target: jax.Array | None = None
) -> jax.Array:
  # [B, h, w] in the resolution of the feature map -> [B, H, W].
  maps = grad_cam(network, params, stats, standardize(faces), target, layer)
  return resize_maps(maps, *faces.shape[1:3])


def _feature_maps(network: Network, params: Tree, stats: Tree, image: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of all layer outputs [B, h, w, D] with h*w > 1, by layer name in walk order."""
  shapes: dict[str, jax.ShapeDtypeStruct] = {}

  def walk(params: Tree, stats: Tree, image: jax.Array) -> jax.Array:
    def apply(name: str, *inputs: jax.Array) -> jax.Array:
      output = _evaluate(network, params, stats, name, inputs)
      if output.ndim == 4 and output.shape[1] * output.shape[2] > 1:
        shapes[name] = jax.ShapeDtypeStruct(output.shape, output.dtype)
      return output

    return network.walk(apply, image)[0]

  jax.eval_shape(walk, params, stats, image)
  return shapes


def _feature_map(
  network: Network, params: Tree, stats: Tree, image: jax.Array, layer: str
) -> dict[str, jax.ShapeDtypeStruct]:
  maps = _feature_maps(network, params, stats, image)
  if layer not in maps:
    raise ValueError(f"layer {layer!r} outputs no feature map: expected one of {', '.join(maps)}")
  return {layer: maps[layer]}


def _evaluate(network: Network, params: Tree, stats: Tree, name: str, inputs: tuple[jax.Array, ...]) -> jax.Array:
  output, _ = network.call(name, params[name], stats[name], inputs, None)
  return output
