"""Separable network with squeeze-and-excitation: shapes of table 1, parameter counts, comparison with float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models import MODELS
from fer_jax.models.separable_se import ALPHA, SeparableSe
from tests.layers.variables import drawn
from tests.models.baselines.shapes import count, traced

SMALL = SeparableSe(width=2, separable=(1, 1), reduction=2, dropout=0.0)
PRINTED = 5_835_265

# Layer, side and channels of each row of table 1.
TABLE1 = [
  ("conv1", 46, 32),
  ("conv2", 44, 64),
  *((f"stage1_{i}", 44, 128) for i in range(2)),
  *((f"stage2_{i}", 22, 256) for i in range(2)),
  *((f"stage3_{i}", 11, 512) for i in range(2)),
  *((f"stage4_{i}", 6, 1024) for i in range(2)),
  ("last", 1, 1024),
]


def test_layers_have_the_shapes_of_table_1():
  found = traced(SeparableSe())
  rows = [(row, side, channels) for name, side, channels in TABLE1 for row in (name, f"{name}_gate")]
  expected = [(name, (2, side, side, channels)) for name, side, channels in rows]
  assert [(name, output.shape) for name, output in found.outputs.items()] == [*expected, ("classifier", (2, 7))]
  assert found.features.shape == (2, 1024)
  assert list(found.network.layers) == [*found.network.hidden, "classifier"]
  assert [len(block) for block in found.network.blocks] == [4, 4, 4, 4, 4, 2]


def test_shortcut_branches_have_the_shapes_of_their_stages():
  found = traced(SeparableSe(residual=True))
  shortcuts = {name: output.shape for name, output in found.outputs.items() if name.endswith("shortcut")}
  sides = [(22, 128), (11, 256), (6, 512), (3, 1024)]
  assert list(shortcuts.values()) == [(2, side, side, channels) for side, channels in sides]
  assert list(found.network.layers) == list(found.outputs) == [*found.network.hidden, "classifier"]


def parameters(residual):
  gate = lambda c: 2 * c * (c // 4) + c // 4 + c  # noqa: E731
  total, inputs = 0, 1
  for name, _, c in TABLE1:
    total += 9 * inputs * c if name.startswith("conv") else 9 * inputs + inputs * c
    total += 2 * c + gate(c)
    inputs = c
  pairs = [(64, 128), (128, 256), (256, 512), (512, 1024)]
  return total + 1024 * 7 + 7 + residual * sum(a * b + 2 * b for a, b in pairs)


def test_residual_parameter_count_is_within_0_1_percent_of_the_paper():
  found = {residual: count(traced(SeparableSe(residual=residual)).params) for residual in (False, True)}
  assert found == {False: parameters(False), True: parameters(True)}
  for residual, number in found.items():
    assert f"{number:,}" in SeparableSe.__doc__, (residual, number)
  assert f"{PRINTED:,}" in SeparableSe.__doc__
  assert abs(found[True] / PRINTED - 1) < 1e-3 < abs(found[False] / PRINTED - 1)


def convolve(x, kernel, padding, groups=1):
  """Convolves [B, H, W, I] with [h, w, I / groups, O] by the definition; `groups` is 1 or I."""
  h, w, _, features = kernel.shape
  x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
  out = np.zeros((len(x), x.shape[1] - h + 1, x.shape[2] - w + 1, features))
  for i in range(out.shape[1]):
    for j in range(out.shape[2]):
      window = x[:, i : i + h, j : j + w]
      if groups == 1:
        out[:, i, j] = np.tensordot(window, kernel, 3)
      else:
        out[:, i, j] = np.sum(window * kernel[:, :, 0], axis=(1, 2))
  return out


def normalized(x, params, stats):
  return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


def activated(x):
  return np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


def gated(x, params):
  hidden = np.maximum(x.mean((1, 2)) @ params["reduce"]["kernel"] + params["reduce"]["bias"], 0)
  scores = hidden @ params["expand"]["kernel"] + params["expand"]["bias"]
  return x / (1 + np.exp(-scores))[:, None, None]


def reference_network(params, stats, image, residual):
  """Computes features and logits of SMALL in NumPy."""

  def plain(name, x):
    y = convolve(x, params[name]["conv"]["kernel"], 0)
    return gated(activated(normalized(y, params[name]["norm"], stats[name]["norm"])), params[f"{name}_gate"])

  def separable(name, x, padding=1):
    layer, layer_stats = params[name], stats[name]["pointwise"]
    y = convolve(x, layer["depthwise"]["kernel"], padding, groups=x.shape[-1])
    y = convolve(y, layer["pointwise"]["conv"]["kernel"], 0)
    return gated(activated(normalized(y, layer["pointwise"]["norm"], layer_stats["norm"])), params[f"{name}_gate"])

  def max_pool(x):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    sides = [range(0, n - 2, 2) for n in x.shape[1:3]]
    return np.stack([np.stack([x[:, i : i + 3, j : j + 3].max((1, 2)) for j in sides[1]], 1) for i in sides[0]], 1)

  x = plain("conv2", plain("conv1", image))
  for i in (1, 2):
    y = max_pool(separable(f"stage{i}_0", x))
    if residual:
      name = f"stage{i}_shortcut"
      branch = convolve(x[:, ::2, ::2], params[name]["conv"]["kernel"], 0)
      y += normalized(branch, params[name]["norm"], stats[name]["norm"])
    x = y
  features = separable("last", x, padding=0).mean((1, 2))
  return features, features @ params["classifier"]["linear"]["kernel"] + params["classifier"]["linear"]["bias"]


@pytest.mark.parametrize("residual", [False, True])
def test_matches_float64(residual):
  network = SeparableSe(2, (1, 1), residual, 2, 0.0).build(3, jnp.float32, None)
  image = np.random.default_rng(0).normal(size=(2, 17, 16, 1)).astype(np.float32)
  variables = drawn(jax.eval_shape(network.init, jax.random.key(0), image))
  outputs, _ = jax.jit(network.apply)(*variables, image)
  in_float64 = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
  features, logits = reference_network(*in_float64, image.astype(np.float64), residual)
  np.testing.assert_allclose(outputs.features, features, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(outputs.logits, logits, rtol=1e-4, atol=1e-4)


def test_activation_has_the_constant_of_the_paper():
  assert ALPHA == 1.6732632423543772848170429916717


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"width": 0}, "model.width=0: expected 1 or more"),
    ({"reduction": 0}, "model.reduction=0: expected 1 or more"),
    ({"separable": ()}, r"model.separable=\(\): expected at least one stage"),
    ({"separable": (2, 0)}, r"model.separable=\(2, 0\): expected at least one stage"),
    ({"dropout": 1.0}, "model.dropout=1.0: expected a rate"),
  ],
)
def test_rejects_invalid_settings(settings, message):
  with pytest.raises(ValueError, match=message):
    SeparableSe(**settings)


def test_rejects_images_too_small_for_the_last_convolution():
  with pytest.raises(ValueError, match="image is too small"):
    traced(SMALL, size=12)


def test_is_registered():
  assert MODELS["separable_se"] is SeparableSe
