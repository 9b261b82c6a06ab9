"""Tests the PyTorch benchmark and its CA-ResNet; tests that need PyTorch are skipped if it is not installed."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.apps import bench
from fer_jax.apps.benchmarks import pytorch
from fer_jax.models import resnet
from fer_jax.models.ca_resnet import CaResNet
from fer_jax.runtime import provenance
from fer_jax.runtime.errors import UserError

TINY = """
from configs import obsr
from fer_jax.config import complete
def get_config(variant=""):
  config = obsr.get_config("demo")
  config.batch_size = 4
  config.data.image_size = 16
  if variant:
    config.model = {"name": "ca_resnet", "width": 8, "blocks": (1, 1), "halve": False}
    if variant.startswith("resnet"):
      config.model = {"name": "resnet", "depth": int(variant[6:8]), "width": 8, "stem": variant[9:]}
  else:
    config.model.update({"depth": 18, "width": 8, "shared": True})
  return complete(config)
"""
MEASURED = ("training", "inference_1", "inference_128")


@pytest.fixture
def config(write_config):
  return write_config(TINY)


@pytest.fixture
def torch(monkeypatch):
  """PyTorch on one thread, with one block in each stage of the residual networks of both libraries.

  Several threads would synchronise by spinning, which takes seconds while other tests use the cores.
  """
  torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
  from fer_jax.apps.benchmarks import torch_resnet

  monkeypatch.setattr(provenance, "cores", lambda: 1)
  for depth in resnet.STAGES:
    monkeypatch.setitem(resnet.STAGES, depth, (1, 1, 1, 1))
    monkeypatch.setitem(torch_resnet.BLOCKS, depth, (1, 1, 1, 1))
  return torch


@pytest.mark.parametrize("variant", ["", "resnet50,imagenet", "ca_resnet"])
def test_ratios_are_relative_to_the_faster_memory_format(torch, config, variant):
  headline, rows = pytorch.pytorch(f"{config}:{variant}", 1)
  assert torch.get_num_threads() == provenance.cores()
  assert [row["name"] for row in rows] == [headline, *pytorch.MEMORY_FORMATS]
  assert len({row["parameters"] for row in rows}) == 1
  for row in rows:
    assert (row["image_size"], row["batch_size"]) == (16, 4)
    assert row["images_per_second"] == pytest.approx(4 / row["seconds_a_step"])
    row["training_ms"] = 1000 * row["seconds_a_step"]
  for key in MEASURED:
    fastest = min(row[f"{key}_ms"] for row in rows if row["name"] in pytorch.MEMORY_FORMATS)
    for row in rows:
      assert row[f"{key}_ratio"] == pytest.approx(row[f"{key}_ms"] / fastest)


def test_flags_override_the_config_sizes(torch, config, tmp_path):
  out = tmp_path / "torch.json"
  given = ["--what=torch", f"--config={config}:resnet18,small", "--rounds=1", f"--out={out}"]
  bench.main([*given, "--image_size=24", "--batch_size=2"])
  found = json.loads(out.read_text())
  assert {(row["image_size"], row["batch_size"]) for row in found["rows"]} == {(24, 2)}
  assert found["headline"] == "ours"
  assert found["training_ratio"] == found["rows"][0]["training_ratio"]


@pytest.mark.parametrize("flag", ["image_size", "batch_size"])
def test_rejects_size_flags_of_zero_or_for_other_benchmarks(config, flag):
  with pytest.raises(UserError, match=f"--{flag}: only valid with --what=torch"):
    bench.main(["--what=pipeline", f"--config={config}", f"--{flag}=8"])
  with pytest.raises(UserError, match=f"--{flag}=0: expected 1 or more"):
    bench.main(["--what=torch", f"--config={config}", f"--{flag}=0"])


@pytest.mark.parametrize("channels_last", [False, True])
def test_first_convolution_has_the_memory_format(torch, monkeypatch, channels_last):
  seen = []

  class Layout(torch.nn.Module):
    def __init__(self, *_):
      super().__init__()
      self.conv = torch.nn.Conv2d(1, 7, 1)

    def forward(self, image):
      seen.append((image.stride(), image.numpy().copy()))
      return self.conv(image).mean((2, 3))

  monkeypatch.setattr(pytorch, "_pytorch_network", Layout)
  workload = pytorch._Workload(resnet.ResNet(), 6, 2, "float32")
  pytorch._pytorch_programs(workload, channels_last)
  stride, image = seen[0]
  assert stride == ((36, 1, 6, 1) if channels_last else (36, 36, 6, 1))
  np.testing.assert_array_equal(image.transpose(0, 2, 3, 1), workload.images(2))


def test_without_pytorch_names_the_package_to_install(config, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install torch"):
    pytorch.pytorch(config, 1)


@pytest.mark.parametrize(
  ("config", "found"),
  [("configs/hsic.py:small", "hsic_dense"), ("configs/baselines.py:se_resnet18", "resnet with squeeze_excite")],
)
def test_rejects_networks_without_a_counterpart(config, found):
  expected = rf"--config={config}: expected .* \(resnet without .*, bilinear or ca_resnet\), found {found}$"
  with pytest.raises(UserError, match=expected):
    pytorch.pytorch(config, 1)


def test_rejects_networks_that_are_too_narrow_for_pytorch(write_config):
  narrow = write_config(TINY.replace('"width": 8', '"width": 4'))
  with pytest.raises(UserError, match=r"model.width=4: expected 8 or more"):
    pytorch.pytorch(narrow, 1)


class TestCaResNet:
  # The image size is odd, so the halved image has an incomplete last row; blocks with and without a shortcut.
  MODELS = (
    CaResNet(blocks=(2, 1), width=16, dropout=0.0),
    CaResNet(blocks=(1, 1), kernel_sizes=(1, 3), width=8, halve=False, reduction=2, dropout=0.0),
  )

  @pytest.fixture(params=MODELS, ids=["as drawn", "1x1, 3x3"])
  def networks(self, request, torch):
    """Our network, its variables, and the PyTorch network with the same variables."""
    from fer_jax.apps.benchmarks import torch_ca_resnet

    network = request.param.build(7, jnp.float32, None)
    params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 25, 25, 1)))
    generator = np.random.default_rng(0)

    def perturb(x):  # zeros and ones would hide a missing bias or statistic
      return x if x.ndim > 1 else x + generator.uniform(0, 0.2, x.shape).astype(np.float32)

    params, stats = jax.tree.map(perturb, (params, stats))
    counterpart = torch_ca_resnet.ca_resnet(7, request.param, 1)
    copied = state_dict_of(torch, (params, stats), counterpart.state_dict())
    keys = counterpart.load_state_dict(copied, strict=False)
    assert not keys.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in keys.missing_keys)
    return network, params, stats, counterpart

  def test_equals_our_logits(self, torch, networks):
    network, params, stats, counterpart = networks
    image = np.random.default_rng(1).standard_normal((3, 25, 25, 1), np.float32)
    with torch.inference_mode():
      expected = counterpart.eval()(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(jax.jit(network.apply)(params, stats, image)[0].logits, expected, atol=1e-4, rtol=0)

  def test_training_step_equals_our_losses(self, torch, networks):
    network, params, stats, counterpart = networks
    generator = np.random.default_rng(1)
    image, label = generator.standard_normal((6, 25, 25, 1), np.float32), generator.integers(0, 7, 6)

    def loss_of(params):
      logits = network.apply(params, stats, image, key=jax.random.key(0))[0].logits
      return optax.softmax_cross_entropy(logits, jax.nn.one_hot(label, 7)).mean()

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(params)
    stepped = jax.jit(loss_of)(optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, gradients)))
    optimizer = torch.optim.SGD(counterpart.train().parameters(), lr=0.1)
    losses = []
    for _ in range(2):
      optimizer.zero_grad()
      logits = counterpart(torch.from_numpy(image).permute(0, 3, 1, 2))
      theirs = torch.nn.functional.cross_entropy(logits, torch.from_numpy(label))
      theirs.backward()
      optimizer.step()
      losses.append(theirs.item())
    assert abs(losses[1] - losses[0]) > 1e-2
    np.testing.assert_allclose([loss, stepped], losses, atol=1e-4, rtol=0)


def state_dict_of(torch, ours, theirs):
  """Returns our parameters and statistics as a `state_dict`, in the shapes of `theirs`."""
  names = {"kernel": "weight", "scale": "weight", "negative_slope": "weight", "mean": "running_mean"}
  names |= {"var": "running_var", "bias": "bias"}
  copied = {}
  for tree in ours:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      module, _, last = jax.tree_util.keystr(path, simple=True, separator=".").rpartition(".")
      key = f"{module}.{names[last]}"
      # [h, w, I, O] -> [O, I, h, w] and [I, O] -> [O, I]
      array = np.transpose(np.asarray(leaf), (3, 2, 0, 1) if leaf.ndim == 4 else None)
      copied[key] = torch.from_numpy(array.reshape(theirs[key].shape).copy())
  return copied
