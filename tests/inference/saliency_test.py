"""Grad-CAM: against differences, against class activation maps, and where a picture decides by one patch alone."""

import functools
import itertools
import tracemalloc
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.inference.saliency import Explainer, enlarge, grad_cam, last_maps, paint
from fer_jax.inference.trained_model import TrainedModel
from fer_jax.models import MODELS, resnet
from fer_jax.models.baselines import bn_inception, mini_xception, mobilenet_v3, xception
from fer_jax.models.network import Network
from tests.layers.variables import drawn

MAP, HIDDEN, CLASSES = (3, 4, 5), 6, 3  # of the small network's last layer


class Filters(nn.Module):
  """A strided convolution."""

  features: int
  stride: int = 2

  @nn.compact
  def __call__(self, x, train):
    return jnp.tanh(nn.Conv(self.features, (3, 3), strides=self.stride, name="conv")(x))


class Head(nn.Module):
  """A head that is linear in nothing."""

  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(CLASSES, name="out")(jnp.tanh(nn.Dense(HIDDEN, name="in")(x)))


class Linear(nn.Module):
  """Averages all places, and multiplies."""

  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(CLASSES, name="out")(x.mean(axis=(1, 2)))


def curved(apply, image):
  x = apply("two", apply("one", image)).reshape(len(image), -1)
  return apply("head", x), x


def pooled(apply, image):
  x = apply("two", apply("one", image))
  return apply("head", x), x


class Small(NamedTuple):
  """A network, its parameters and statistics, and its `grad_cam`, compiled."""

  network: Network
  params: Any
  stats: Any
  ask: Any

  def outputs(self, image):
    """Returns the last map and the logits."""
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


def test_weights_are_the_scores_slopes_along_the_maps(image):
  one = small(curved, Head())
  target = np.array([0, 1, 2, 1])
  maps, _ = one.outputs(image)
  assert maps.shape == (4, *MAP)
  weight = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), one.params["head"])

  def score(row, values):
    hidden = np.tanh(values.reshape(-1) @ weight["in"]["kernel"] + weight["in"]["bias"])
    return (hidden @ weight["out"]["kernel"] + weight["out"]["bias"])[target[row]]

  step, expected = 1e-5, np.zeros(maps.shape[:3])
  for row, values in enumerate(maps):
    slope = np.zeros(MAP)
    for place in itertools.product(*map(range, MAP)):
      change = np.zeros(MAP)
      change[place] = step
      slope[place] = (score(row, values + change) - score(row, values - change)) / (2 * step)
    expected[row] = (values * slope.mean(axis=(0, 1))).sum(axis=-1)
  found = one.ask(one.params, one.stats, image, target)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, normalized(expected), atol=2e-5)


def test_behind_averages_and_a_linear_layer_it_is_the_class_activation_map(image):
  one = small(pooled, Linear())
  maps, _ = one.outputs(image)
  kernel = np.asarray(one.params["head"]["out"]["kernel"], np.float64)
  for target in range(CLASSES):
    expected = normalized(maps @ kernel[:, target])
    found = one.ask(one.params, one.stats, image, np.full(4, target))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_a_target_the_class_with_the_highest_logit_is_asked_about(image):
  one = small(pooled, Linear())
  _, logits = one.outputs(image)
  answers = [np.asarray(one.ask(one.params, one.stats, image, np.full(4, target))) for target in range(CLASSES)]
  found = np.asarray(one.ask(one.params, one.stats, image))
  for row, winner in enumerate(logits.argmax(-1).tolist()):
    np.testing.assert_allclose(found[row], answers[winner][row], atol=1e-6)


def test_any_layer_may_be_asked_and_one_without_maps_is_named(image):
  one = small(pooled, Linear())
  assert jax.eval_shape(functools.partial(one.ask, layer="one"), one.params, one.stats, image).shape == (4, 6, 8)
  for layer in ("head", "three"):
    with pytest.raises(ValueError, match=rf"layer '{layer}' outputs no feature map: expected one of one, two"):
      one.ask(one.params, one.stats, image, layer=layer)


def test_a_layer_that_the_walk_calls_twice_is_refused(image):
  def walk(apply, image):
    one = apply("one", image)
    return apply("head", apply("two", one) + apply("two", -one)), image

  twice = small(walk, Linear())
  for layer in (None, "two"):
    with pytest.raises(ValueError, match="layer 'two' .* twice"):
      twice.ask(twice.params, twice.stats, image, layer=layer)


def test_where_nothing_speaks_for_the_class_the_map_is_zero(image):
  one = small(pooled, Linear())
  silent = {**one.params, "head": jax.tree.map(np.zeros_like, one.params["head"])}
  assert not np.asarray(one.ask(silent, one.stats, image, np.zeros(4, int))).any()


class Scaled(nn.Module):
  """Multiplies by a number of its own, and averages blocks of so many places."""

  factor: float
  block: int = 1

  @nn.compact
  def __call__(self, x, train):
    return self.factor * nn.avg_pool(x, (self.block, self.block), strides=(self.block, self.block))


class Add(nn.Module):
  """Adds the averages of two maps; two classes, for and against."""

  @nn.compact
  def __call__(self, one, two, train):
    y = one.mean(axis=(1, 2, 3)) + two.mean(axis=(1, 2, 3))
    return jnp.stack([y, -y], axis=-1)


def side_by_side(one, two):
  """A network of two branches with nothing to learn."""

  def walk(apply, image):
    stem = apply("stem", image)
    a, b = apply("a", stem), apply("b", stem[:, :, ::-1])
    return apply("head", a, b), image

  layers = {"stem": Scaled(1.0), "a": one, "b": two, "head": Add()}
  none: dict[str, Any] = {name: {} for name in layers}
  network = Network(layers, walk, (("stem",), ("a", "b")), "head")
  return jax.jit(functools.partial(grad_cam, network, none, none))


def test_branches_that_meet_count_by_what_each_adds():
  image = np.zeros((1, 4, 4, 1), np.float32)
  image[0, 0, 0] = image[0, 3, 0] = 1
  mirrored = image[:, :, ::-1]
  for factors in ((2.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
    found = side_by_side(Scaled(factors[0]), Scaled(factors[1]))(image)
    both = factors[0] * image + factors[1] * mirrored
    np.testing.assert_allclose(found, both[..., 0] / both.max(), atol=1e-6)
  # Of two sizes, the smaller one weighs as much: its average over places is what it adds to the score.
  found = np.asarray(side_by_side(Scaled(0.0), Scaled(1.0, block=2))(image))
  assert found.shape == (1, 4, 4)
  assert found[0, 0, 3] == found.max() == 1
  assert found[0, :, 0].max() < 0.01
  mixed = np.asarray(side_by_side(Scaled(1.0), Scaled(1.0, block=2))(image))[0]
  assert mixed[0, 0] == 1
  assert mixed[:, 2:].sum() / mixed[:, :2].sum() == pytest.approx(1.0, abs=0.25)


# Each network, shallow, and the layers whose maps its logits read, with the largest one's side.
LAST: dict[str, tuple[dict[str, Any], tuple[str, ...], int]] = {
  "hsic_dense": (
    {"convs": 1, "growth": 4, "stem": 4, "transition": 4, "pyramid": 4},
    ("pyramid_level3", "pyramid_level2", "pyramid_level1"),
    24,
  ),
  "resnet": ({"width": 4}, ("layer4_0",), 6),
  "cifar_resnet": ({"depth": 8, "width": 4}, ("module3_0",), 12),
  "ca_resnet": ({"blocks": (1, 1), "width": 4}, ("layer2_0",), 6),
  "bilinear": ({"depth": 18, "stem": "small", "width": 2}, ("a_layer4_0", "b_layer4_0"), 6),
  # The last convolution leaves one place. What it reads are the maxima of a stage's maps, and a shortcut's map.
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
  """Shortens the networks that have no setting for it: a trace of all their layers takes seconds."""
  monkeypatch.setitem(resnet.STAGES, 18, (1, 1, 1, 1))
  monkeypatch.setattr(bn_inception, "MODULES", {name: bn_inception.MODULES[name] for name in ("3c", "4e", "5b")})
  monkeypatch.setitem(mobilenet_v3.ROWS, "small", mobilenet_v3.SMALL[:4])
  monkeypatch.setattr(mini_xception, "MODULES", 2)
  monkeypatch.setattr(xception, "MIDDLE", xception.MIDDLE[:1])


@pytest.mark.parametrize("name", MODELS)
def test_every_network_has_maps_that_its_logits_read(name, shallow):
  """Traced, and not compiled."""
  settings, names, side = LAST[name]
  network = MODELS[name](**settings).build(7, jnp.float32, None)
  image = jax.ShapeDtypeStruct((2, 48, 48, 1), jnp.float32)
  variables = *jax.eval_shape(network.init, jax.random.key(0), image), image
  maps = last_maps(network, *variables)
  assert tuple(maps) == names
  assert max(shape.shape[1:3] for shape in maps.values()) == (side, side)
  found = jax.eval_shape(functools.partial(grad_cam, network), *variables)
  assert (found.shape, found.dtype) == ((2, side, side), jnp.float32)


class Bright(nn.Module):
  """Two channels of maps: the picture where it is bright, and where it is dark."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.avg_pool(x, (4, 4), strides=(4, 4))
    return nn.relu(jnp.concatenate([x - 1.5, -x - 1.5], axis=-1))


class Decide(nn.Module):
  """Bright patches are the first class, dark ones the second."""

  @nn.compact
  def __call__(self, x, train):
    sign = self.param("sign", lambda key: jnp.array([[1.0, -1.0], [-1.0, 1.0]]))
    return x.mean(axis=(1, 2)) @ sign


def classifier(sign=1.0):
  layers = {"bright": Bright(), "head": Decide()}
  walk = lambda apply, image: (apply("head", apply("bright", image)), image)  # noqa: E731
  network = Network(layers, walk, (("bright",),), "head")
  params, stats = network.init(jax.random.key(0), jnp.zeros((1, 24, 32, 1)))
  params["head"]["sign"] = sign * params["head"]["sign"]
  return TrainedModel(network, params, stats, ("light", "dark"), (24, 32, 1), "face", {})


@pytest.fixture(scope="module")
def explainer():
  return Explainer(classifier())


def patches(count):
  """Grey noise with a patch, light and dark in turn, of 4x4 pixels; and where its corner is."""
  rng = np.random.default_rng(3)
  faces = rng.integers(120, 136, (count, 24, 32, 1), dtype=np.uint8)
  corners = np.stack([4 * rng.integers(0, 6, count), 4 * rng.integers(0, 8, count)], axis=-1)
  for row, (y, x) in enumerate(corners):
    faces[row, y : y + 4, x : x + 4] = 255 if row % 2 == 0 else 0
  return faces, corners


def test_a_patch_that_alone_decides_is_where_the_map_is_hot(explainer):
  faces, corners = patches(6)
  maps = explainer.explain(faces)
  assert (maps.shape, maps.dtype) == ((6, 24, 32), np.float32)
  assert maps.min() >= 0
  assert maps.max() <= 1
  for one, (y, x) in zip(maps, corners, strict=True):
    inside = one[y : y + 4, x : x + 4]
    assert inside.min() > 0.35
    assert one.max() == inside.max()
    assert one.sum() < 2.5 * inside.sum()  # what lies around is the bilinear edge
  # Nothing speaks for the other class.
  assert not explainer.explain(faces, np.array([1, 0] * 3)).any()
  np.testing.assert_array_equal(explainer.explain(faces, np.array([0, 1] * 3)), maps)


def test_a_face_is_explained_alike_in_any_company(explainer):
  faces, _ = patches(6)
  target = np.array([0, 1] * 3)
  together = explainer.explain(faces)
  np.testing.assert_allclose(explainer.explain(faces, target, batch_size=3), together, atol=1e-6)
  np.testing.assert_allclose(explainer.explain(faces[3:4], target[3:4]), together[3:4], atol=1e-6)
  assert explainer.explain(faces[:0]).shape == (0, 24, 32)


def test_another_training_is_explained_by_its_own_weights(explainer):
  faces, _ = patches(2)
  other = explainer.of(classifier(sign=-1.0))
  np.testing.assert_array_equal(other.explain(faces, np.array([1, 0])), explainer.explain(faces, np.array([0, 1])))
  assert not other.explain(faces, np.array([0, 1])).any()
  assert explainer.explain(faces, np.array([0, 1])).any()


@pytest.mark.parametrize(
  ("faces", "target", "said"),
  [
    (np.zeros((1, 24, 24, 1), np.uint8), None, r"faces are uint8 \[1, 24, 24, 1\]: expected uint8 \[N, 24, 32, 1\]"),
    (np.zeros((1, 24, 32, 1), np.float32), None, "faces are float32"),
    (np.zeros((1, 24, 32, 1), np.uint8), np.array([2]), r"target is \[2\]: expected .* 0 to 1"),
    (np.zeros((2, 24, 32, 1), np.uint8), np.array([0]), "each of 2 faces"),
  ],
)
def test_what_does_not_fit_is_refused(explainer, faces, target, said):
  with pytest.raises(ValueError, match=said):
    explainer.explain(faces, target)


def test_enlarged_maps_keep_their_place_and_their_range():
  maps = np.zeros((1, 3, 4), np.float32)
  maps[0, 2, 1] = 1
  large = np.asarray(enlarge(maps, 48, 64))
  assert large.shape == (1, 48, 64)
  y, x = np.unravel_index(large[0].argmax(), (48, 64))
  assert (y // 16, x // 16) == (2, 1)
  assert (large.min(), large.max()) == (0, pytest.approx(1, abs=0.05))


def test_a_painted_face_is_grey_where_the_map_is_zero_and_grows_lighter_in_colour_with_it():
  colour = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
  for face in (colour, colour[..., :1], colour[..., 0], np.ascontiguousarray(colour[:, :3, 0])):
    bare = paint(face, np.zeros(face.shape[:2], np.float32))
    assert (bare.shape, bare.dtype) == ((*face.shape[:2], 3), np.uint8)
    assert (bare == bare[..., :1]).all()
  np.testing.assert_array_equal(bare[..., 0], face)
  ramp = np.linspace(0, 1, 9, dtype=np.float32)[None]
  red, green, blue = np.moveaxis(paint(np.full((1, 9, 1), 40, np.uint8), ramp)[0].astype(int), -1, 0)
  assert (np.diff(red)[1:] > 0).all()
  assert min(red[4], blue[4]) > green[4]  # violet
  assert min(red[-1], green[-1]) > blue[-1] + 20  # yellow
  assert (np.diff(0.2 * red + 0.7 * green + 0.1 * blue)[2:] > 0).all()


def test_a_large_picture_is_painted_in_little_memory():
  face, saliency = np.full((256, 512, 3), 90, np.uint8), np.full((256, 512), 0.5)
  paint(face, saliency)
  tracemalloc.start()
  try:
    paint(face, saliency)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 28 * saliency.size  # bytes: of three channels in float64, 24 alone
