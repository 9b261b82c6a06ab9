"""Grad-CAM, compared with finite differences and class activation maps, and on images decided by a single patch."""

import functools
import itertools
import tracemalloc
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.inference.saliency import Explainer, grad_cam, last_feature_maps, overlay, resize_maps
from fer_jax.inference.trained_model import TrainedModel
from fer_jax.models import MODELS, resnet
from fer_jax.models.baselines import bn_inception, mini_xception, mobilenet_v3, xception
from fer_jax.models.network import Network
from tests.layers.variables import drawn

MAP, HIDDEN, CLASSES = (3, 4, 5), 6, 3  # shapes of the small network's last layers


class Filters(nn.Module):
  """A strided convolution."""

  features: int
  stride: int = 2

  @nn.compact
  def __call__(self, x, train):
    return jnp.tanh(nn.Conv(self.features, (3, 3), strides=self.stride, name="conv")(x))


class Head(nn.Module):
  """A nonlinear head."""

  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(CLASSES, name="out")(jnp.tanh(nn.Dense(HIDDEN, name="in")(x)))


class Linear(nn.Module):
  """A linear head after global average pooling."""

  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(CLASSES, name="out")(x.mean(axis=(1, 2)))


def nonlinear_walk(apply, image):
  x = apply("two", apply("one", image)).reshape(len(image), -1)
  return apply("head", x), x


def pooled_walk(apply, image):
  x = apply("two", apply("one", image))
  return apply("head", x), x


class Small(NamedTuple):
  """A network, its parameters and statistics, and its `grad_cam`, compiled."""

  network: Network
  params: Any
  stats: Any
  grad_cam: Any

  def outputs(self, image):
    """Returns the last feature map and the logits."""
    found, _ = jax.jit(functools.partial(self.network.apply, taps=True))(self.params, self.stats, image)
    return np.asarray(found.taps[-1], np.float64), np.asarray(found.logits)


@functools.cache
def small(walk, head):
  layers = {"one": Filters(4), "two": Filters(MAP[2]), "head": head}
  network = Network(layers, walk, (("one",), ("two",)), "head")
  variables = map(drawn, jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 12, 16, 1))))
  return Small(network, *variables, jax.jit(functools.partial(grad_cam, network), static_argnames="layer"))


@pytest.fixture(scope="module")
def image():
  return np.random.default_rng(0).normal(size=(4, 12, 16, 1)).astype(np.float32)


def normalized(maps):
  maps = np.maximum(maps, 0)
  return maps / maps.max(axis=(1, 2), keepdims=True)


def test_equals_finite_differences(image):
  case = small(nonlinear_walk, Head())
  target = np.array([0, 1, 2, 1])
  maps, _ = case.outputs(image)
  assert maps.shape == (4, *MAP)
  weight = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), case.params["head"])

  def score(row, values):
    hidden = np.tanh(values.reshape(-1) @ weight["in"]["kernel"] + weight["in"]["bias"])
    return (hidden @ weight["out"]["kernel"] + weight["out"]["bias"])[target[row]]

  step, expected = 1e-5, np.zeros(maps.shape[:3])
  for row, values in enumerate(maps):
    slope = np.zeros(MAP)
    for index in itertools.product(*map(range, MAP)):
      change = np.zeros(MAP)
      change[index] = step
      slope[index] = (score(row, values + change) - score(row, values - change)) / (2 * step)
    expected[row] = (values * slope.mean(axis=(0, 1))).sum(axis=-1)
  found = case.grad_cam(case.params, case.stats, image, target)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, normalized(expected), atol=2e-5)


def test_equals_class_activation_maps(image):
  case = small(pooled_walk, Linear())
  maps, _ = case.outputs(image)
  kernel = np.asarray(case.params["head"]["out"]["kernel"], np.float64)
  for target in range(CLASSES):
    expected = normalized(maps @ kernel[:, target])
    found = case.grad_cam(case.params, case.stats, image, np.full(4, target))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_default_target_is_the_predicted_class(image):
  case = small(pooled_walk, Linear())
  _, logits = case.outputs(image)
  by_target = [
    np.asarray(case.grad_cam(case.params, case.stats, image, np.full(4, target))) for target in range(CLASSES)
  ]
  found = np.asarray(case.grad_cam(case.params, case.stats, image))
  for row, predicted in enumerate(logits.argmax(-1).tolist()):
    np.testing.assert_allclose(found[row], by_target[predicted][row], atol=1e-6)


def test_layer_option_and_rejects_layers_without_feature_maps(image):
  case = small(pooled_walk, Linear())
  assert jax.eval_shape(functools.partial(case.grad_cam, layer="one"), case.params, case.stats, image).shape == (
    4,
    6,
    8,
  )
  for layer in ("head", "three"):
    with pytest.raises(ValueError, match=rf"layer '{layer}' outputs no feature map: expected one of one, two"):
      case.grad_cam(case.params, case.stats, image, layer=layer)


def test_rejects_layers_that_are_called_twice(image):
  def walk(apply, image):
    x = apply("one", image)
    return apply("head", apply("two", x) + apply("two", -x)), image

  case = small(walk, Linear())
  for layer in (None, "two"):
    with pytest.raises(ValueError, match="layer 'two' .* twice"):
      case.grad_cam(case.params, case.stats, image, layer=layer)


def test_map_is_zero_if_no_position_contributes(image):
  case = small(pooled_walk, Linear())
  zero_head = {**case.params, "head": jax.tree.map(np.zeros_like, case.params["head"])}
  assert not np.asarray(case.grad_cam(zero_head, case.stats, image, np.zeros(4, int))).any()


class Scaled(nn.Module):
  """Multiplies by a factor and averages blocks of positions."""

  factor: float
  block: int = 1

  @nn.compact
  def __call__(self, x, train):
    return self.factor * nn.avg_pool(x, (self.block, self.block), strides=(self.block, self.block))


class Add(nn.Module):
  """Adds the averages of two feature maps; the logits of the two classes are the sum and its negative."""

  @nn.compact
  def __call__(self, first, second, train):
    y = first.mean(axis=(1, 2, 3)) + second.mean(axis=(1, 2, 3))
    return jnp.stack([y, -y], axis=-1)


def two_branches(first, second):
  """Returns `grad_cam` of a network with two branches and no parameters."""

  def walk(apply, image):
    stem = apply("stem", image)
    a, b = apply("a", stem), apply("b", stem[:, :, ::-1])
    return apply("head", a, b), image

  layers = {"stem": Scaled(1.0), "a": first, "b": second, "head": Add()}
  none: dict[str, Any] = {name: {} for name in layers}
  network = Network(layers, walk, (("stem",), ("a", "b")), "head")
  return jax.jit(functools.partial(grad_cam, network, none, none))


def test_branches_are_weighted_by_their_contribution():
  image = np.zeros((1, 4, 4, 1), np.float32)
  image[0, 0, 0] = image[0, 3, 0] = 1
  mirrored = image[:, :, ::-1]
  for branch_factors in ((2.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
    found = two_branches(Scaled(branch_factors[0]), Scaled(branch_factors[1]))(image)
    both = branch_factors[0] * image + branch_factors[1] * mirrored
    np.testing.assert_allclose(found, both[..., 0] / both.max(), atol=1e-6)
  # Branches of different sizes have equal weight: each contributes its average over positions to the score.
  found = np.asarray(two_branches(Scaled(0.0), Scaled(1.0, block=2))(image))
  assert found.shape == (1, 4, 4)
  assert found[0, 0, 3] == found.max() == 1
  assert found[0, :, 0].max() < 0.01
  mixed = np.asarray(two_branches(Scaled(1.0), Scaled(1.0, block=2))(image))[0]
  assert mixed[0, 0] == 1
  assert mixed[:, 2:].sum() / mixed[:, :2].sum() == pytest.approx(1.0, abs=0.25)


# For a shallow version of each network: the layers of its last feature maps, and the side of the largest one.
LAST_FEATURE_MAPS: dict[str, tuple[dict[str, Any], tuple[str, ...], int]] = {
  "hsic_dense": (
    {"convs": 1, "growth": 4, "stem": 4, "transition": 4, "pyramid": 4},
    ("pyramid_level3", "pyramid_level2", "pyramid_level1"),
    24,
  ),
  "resnet": ({"width": 4}, ("layer4_0",), 6),
  "cifar_resnet": ({"depth": 8, "width": 4}, ("module3_0",), 12),
  "ca_resnet": ({"blocks": (1, 1), "width": 4}, ("layer2_0",), 6),
  "bilinear": ({"depth": 18, "stem": "small", "width": 2}, ("a_layer4_0", "b_layer4_0"), 6),
  # The last convolution leaves one position. Its input is the sum of a pooled stage and a shortcut.
  "separable_se": (
    {"width": 2, "separable": (1, 1, 1, 1), "residual": True},
    ("stage4_0_gate", "stage4_shortcut"),
    6,
  ),
  "two_channel": ({"width": 2, "separable": (1, 1)}, ("lbp_last_gate", "image_last_gate"), 9),
  "alexnet": ({"hidden": 8}, ("conv5",), 9),
  "bn_inception": ({}, ("inception_5b",), 6),
  "vgg": ({"depth": 13, "width": 2, "hidden": 8}, ("conv5_2",), 3),
  "densenet": ({"layers": (1, 1), "growth": 4}, ("norm",), 24),
  "mobilenet_v3": ({"size": "small"}, ("head_conv",), 6),
  "mini_xception": ({}, ("module2",), 11),
  "xception": ({"width": 2}, ("last2",), 3),
}


@pytest.fixture
def shallow(monkeypatch):
  """Makes networks without a setting for their depth shallow: tracing all their layers takes seconds."""
  monkeypatch.setitem(resnet.STAGES, 18, (1, 1, 1, 1))
  monkeypatch.setattr(bn_inception, "MODULES", {name: bn_inception.MODULES[name] for name in ("3c", "4e", "5b")})
  monkeypatch.setitem(mobilenet_v3.ROWS, "small", mobilenet_v3.SMALL[:4])
  monkeypatch.setattr(mini_xception, "MODULES", 2)
  monkeypatch.setattr(xception, "MIDDLE", xception.MIDDLE[:1])


@pytest.mark.parametrize("name", MODELS)
def test_every_network_has_last_feature_maps(name, shallow):
  """Only traced, not compiled."""
  settings, names, side = LAST_FEATURE_MAPS[name]
  network = MODELS[name](**settings).build(7, jnp.float32, None)
  image = jax.ShapeDtypeStruct((2, 48, 48, 1), jnp.float32)
  variables = *jax.eval_shape(network.init, jax.random.key(0), image), image
  maps = last_feature_maps(network, *variables)
  assert tuple(maps) == names
  assert max(shape.shape[1:3] for shape in maps.values()) == (side, side)
  found = jax.eval_shape(functools.partial(grad_cam, network), *variables)
  assert (found.shape, found.dtype) == ((2, side, side), jnp.float32)


class Bright(nn.Module):
  """Two feature maps: the bright and the dark parts of the image."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.avg_pool(x, (4, 4), strides=(4, 4))
    return nn.relu(jnp.concatenate([x - 1.5, -x - 1.5], axis=-1))


class Decide(nn.Module):
  """Classifies bright patches as the first class and dark ones as the second."""

  @nn.compact
  def __call__(self, x, train):
    sign = self.param("sign", lambda key: jnp.array([[1.0, -1.0], [-1.0, 1.0]]))
    return x.mean(axis=(1, 2)) @ sign


def make_model(sign=1.0):
  layers = {"bright": Bright(), "head": Decide()}
  walk = lambda apply, image: (apply("head", apply("bright", image)), image)  # noqa: E731
  network = Network(layers, walk, (("bright",),), "head")
  params, stats = network.init(jax.random.key(0), jnp.zeros((1, 24, 32, 1)))
  params["head"]["sign"] = sign * params["head"]["sign"]
  return TrainedModel(network, params, stats, ("light", "dark"), (24, 32, 1), "face", {})


@pytest.fixture(scope="module")
def explainer():
  return Explainer(make_model())


def patches(count):
  """Returns images of grey noise with a 4x4 patch, alternately light and dark, and the corners of the patches."""
  rng = np.random.default_rng(3)
  faces = rng.integers(120, 136, (count, 24, 32, 1), dtype=np.uint8)
  corners = np.stack([4 * rng.integers(0, 6, count), 4 * rng.integers(0, 8, count)], axis=-1)
  for row, (y, x) in enumerate(corners):
    faces[row, y : y + 4, x : x + 4] = 255 if row % 2 == 0 else 0
  return faces, corners


def test_map_highlights_the_deciding_patch(explainer):
  faces, corners = patches(6)
  maps = explainer.explain(faces)
  assert (maps.shape, maps.dtype) == ((6, 24, 32), np.float32)
  assert maps.min() >= 0
  assert maps.max() <= 1
  for saliency, (y, x) in zip(maps, corners, strict=True):
    inside = saliency[y : y + 4, x : x + 4]
    assert inside.min() > 0.35
    assert saliency.max() == inside.max()
    assert saliency.sum() < 2.5 * inside.sum()  # the rest is the edge of the bilinear interpolation
  # No position contributes to the other class.
  assert not explainer.explain(faces, np.array([1, 0] * 3)).any()
  np.testing.assert_array_equal(explainer.explain(faces, np.array([0, 1] * 3)), maps)


def test_explanations_are_independent_of_the_batch(explainer):
  faces, _ = patches(6)
  target = np.array([0, 1] * 3)
  together = explainer.explain(faces)
  np.testing.assert_allclose(explainer.explain(faces, target, batch_size=3), together, atol=1e-6)
  np.testing.assert_allclose(explainer.explain(faces[3:4], target[3:4]), together[3:4], atol=1e-6)
  assert explainer.explain(faces[:0]).shape == (0, 24, 32)


def test_with_model_uses_the_other_weights(explainer):
  faces, _ = patches(2)
  other = explainer.with_model(make_model(sign=-1.0))
  np.testing.assert_array_equal(other.explain(faces, np.array([1, 0])), explainer.explain(faces, np.array([0, 1])))
  assert not other.explain(faces, np.array([0, 1])).any()
  assert explainer.explain(faces, np.array([0, 1])).any()


@pytest.mark.parametrize(
  ("faces", "target", "message"),
  [
    (np.zeros((1, 24, 24, 1), np.uint8), None, r"faces are uint8 \[1, 24, 24, 1\]: expected uint8 \[N, 24, 32, 1\]"),
    (np.zeros((1, 24, 32, 1), np.float32), None, "faces are float32"),
    (np.zeros((1, 24, 32, 1), np.uint8), np.array([2]), r"target is \[2\]: expected .* 0 to 1"),
    (np.zeros((2, 24, 32, 1), np.uint8), np.array([0]), "each of 2 faces"),
  ],
)
def test_rejects_invalid_faces_and_targets(explainer, faces, target, message):
  with pytest.raises(ValueError, match=message):
    explainer.explain(faces, target)


def test_resize_maps_preserves_position_and_range():
  maps = np.zeros((1, 3, 4), np.float32)
  maps[0, 2, 1] = 1
  large = np.asarray(resize_maps(maps, 48, 64))
  assert large.shape == (1, 48, 64)
  y, x = np.unravel_index(large[0].argmax(), (48, 64))
  assert (y // 16, x // 16) == (2, 1)
  assert (large.min(), large.max()) == (0, pytest.approx(1, abs=0.05))


def test_overlay_is_grey_at_zero_and_lighter_with_the_map():
  colour = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
  for face in (colour, colour[..., :1], colour[..., 0], np.ascontiguousarray(colour[:, :3, 0])):
    bare = overlay(face, np.zeros(face.shape[:2], np.float32))
    assert (bare.shape, bare.dtype) == ((*face.shape[:2], 3), np.uint8)
    assert (bare == bare[..., :1]).all()
  np.testing.assert_array_equal(bare[..., 0], face)
  ramp = np.linspace(0, 1, 9, dtype=np.float32)[None]
  red, green, blue = np.moveaxis(overlay(np.full((1, 9, 1), 40, np.uint8), ramp)[0].astype(int), -1, 0)
  assert (np.diff(red)[1:] > 0).all()
  assert min(red[4], blue[4]) > green[4]  # violet
  assert min(red[-1], green[-1]) > blue[-1] + 20  # yellow
  assert (np.diff(0.2 * red + 0.7 * green + 0.1 * blue)[2:] > 0).all()


def test_overlay_of_a_large_image_needs_little_memory():
  face, saliency = np.full((256, 512, 3), 90, np.uint8), np.full((256, 512), 0.5)
  overlay(face, saliency)
  tracemalloc.start()
  try:
    overlay(face, saliency)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 28 * saliency.size  # in bytes; three channels in float64 alone would take 24 per pixel
