"""Writes resnet18_width4*: a small ResNet-18 of random weights, as PyTorch saves it, and the logits PyTorch gives.

Run by hand, where PyTorch is installed (the tests need only what it wrote):

  pip install torch && python -m tests.golden.make_pretrained
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from fer_jax.apps.benchmarks.torch_resnet import ResNet

FOLDER = Path(__file__).parent
NAME = "resnet18_width4"
CLASSES, IMAGES, SIZE, SQUARE = 7, 3, 64, 16


def make_network() -> ResNet:
  """Returns the network; its statistics are such that a wrong one of them shows in the logits."""
  generator = torch.Generator().manual_seed(0)
  network = ResNet(CLASSES, depth=18, width=4, stem="imagenet", channels=3).eval()
  for name, tensor in network.state_dict().items():
    if name.endswith("num_batches_tracked"):
      tensor.fill_(100)
    elif tensor.ndim == 4:
      tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    elif name.endswith("running_var"):
      tensor.uniform_(0.5, 2, generator=generator)
    elif name.endswith("running_mean") or name.endswith("bias"):
      tensor.uniform_(-0.1, 0.1, generator=generator)
    elif tensor.ndim == 1:
      tensor.uniform_(0.8, 1.6, generator=generator)
    else:
      tensor.normal_(0, 0.3, generator=generator)
  return network


def main() -> None:
  network = make_network()
  weights = network.state_dict()
  torch.save(weights, FOLDER / f"{NAME}.pth")
  torch.save(weights, FOLDER / f"{NAME}_legacy.pth", _use_new_zipfile_serialization=False)
  save_file(weights, FOLDER / f"{NAME}.safetensors")
  generator = np.random.default_rng(0)
  # Large squares: what passes pooling, where noise would leave all images alike.
  squares = np.ones((1, SQUARE, SQUARE, 1), np.uint8)
  colour = np.kron(generator.integers(0, 256, (IMAGES, SIZE // SQUARE, SIZE // SQUARE, 3), np.uint8), squares)
  grey = np.kron(generator.integers(0, 256, (IMAGES, SIZE // SQUARE, SIZE // SQUARE, 1), np.uint8), squares)

  def logits(image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
      return network(torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255).numpy()

  np.savez_compressed(
    FOLDER / f"{NAME}_logits.npz",
    colour=colour,
    colour_logits=logits(colour),
    grey=grey,
    grey_logits=logits(grey.repeat(3, axis=3)),
  )


if __name__ == "__main__":
  main()
