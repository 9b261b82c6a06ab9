"""Comparison of our networks with PyTorch's for equal weights; skipped if PyTorch is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import pretrained
from fer_jax.models.bilinear import Bilinear
from fer_jax.models.resnet import ResNet

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

from fer_jax.apps.benchmarks import torch_resnet  # noqa: E402


def randomized(network):
  """Draws parameters and statistics similar to those after training; returns the network in evaluation mode."""
  generator = torch.Generator().manual_seed(0)
  for name, tensor in network.state_dict().items():
    if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
      tensor.uniform_(0.5, 1.2, generator=generator)
    elif name.endswith(("running_mean", "bias")):
      tensor.uniform_(-0.2, 0.2, generator=generator)
    else:
      tensor.normal_(0, (1 / max(tensor[0].numel(), 1)) ** 0.5, generator=generator) if tensor.ndim > 1 else None
  return network.eval()


@pytest.mark.parametrize(
  ("depth", "width", "stem", "channels"),
  [(34, 64, "imagenet", 3), (34, 64, "imagenet", 1), (18, 8, "small", 3), (50, 8, "imagenet", 3), (50, 8, "small", 1)],
)
def test_logits_match_pytorch(tmp_path, depth, width, stem, channels):
  reference = randomized(torch_resnet.ResNet(7, depth, width, stem, channels=3))
  torch.save(reference.state_dict(), tmp_path / "w.pth")
  image = np.random.default_rng(0).random((2, 64, 64, channels), np.float32)
  with torch.no_grad():
    expected = reference(torch.from_numpy(image.repeat(3 // channels, axis=3)).permute(0, 3, 1, 2)).numpy()
  network = ResNet(depth, stem, width=width).build(7, jnp.float32, None)
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)
  params, stats, report = pretrained.load(
    tmp_path / "w.pth", *shapes, extractors=("",), classifier="classifier", keep_classifier=True
  )
  logits = jax.jit(network.apply)(params, stats, image)[0].logits
  np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, np.abs(expected).max()), rtol=0)
  assert np.ptp(expected, axis=0).max() > 1e-2
  assert report.unused == ()


@pytest.mark.parametrize("shared", [False, True])
def test_bilinear_reference_follows_its_formula(shared):
  reference = randomized(torch_resnet.BilinearResNet(7, shared=shared, depth=18, width=2, stem="small", channels=1))
  image = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
  with torch.no_grad():
    logits = reference(image).numpy()
    a = reference.a(image).numpy()
    b = a if shared else reference.b(image).numpy()
  product = np.einsum("bchw,bdhw->bcd", a, b).reshape(3, -1)
  root = product * (np.abs(product) + 1e-5) ** -0.5
  unit = root * ((root**2).sum(axis=1, keepdims=True) + 1e-12) ** -0.5
  np.testing.assert_allclose(
    logits, unit @ reference.fc.weight.detach().numpy().T + reference.fc.bias.detach().numpy(), atol=1e-5
  )
  assert not shared or reference.b is None


@pytest.mark.parametrize("shared", [False, True])
def test_bilinear_network_matches_pytorch(tmp_path, shared):
  reference = randomized(torch_resnet.BilinearResNet(7, shared=shared, depth=18, width=4, channels=1))
  if not shared:
    reference.b.load_state_dict(reference.a.state_dict())  # a file fills both extractors with the same weights
  torch.save(reference.a.state_dict(), tmp_path / "w.pth")
  image = np.random.default_rng(0).random((3, 64, 64, 1), np.float32)
  with torch.no_grad():
    expected = reference(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
  network = Bilinear(18, width=4, shared=shared).build(7, jnp.float32, None)
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)
  params, stats, _ = pretrained.load(
    tmp_path / "w.pth", *shapes, extractors=network.extractors, classifier=network.classifier
  )
  linear = {"kernel": reference.fc.weight.detach().numpy().T, "bias": reference.fc.bias.detach().numpy()}
  params, stats = params | {"classifier": {"linear": linear}}, stats | {"classifier": {}}
  np.testing.assert_allclose(jax.jit(network.apply)(params, stats, image)[0].logits, expected, atol=1e-4, rtol=0)
