"""A training step of the bilinear network against the same network in PyTorch."""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax

from fer_jax.apps.benchmarks.benchmark import (
  CLASSES,
  FER2013,
  Benchmark,
  Program,
  Row,
  compile_program,
  make_rig,
  settings_of,
  step_of,
  time_by_turns,
)
from fer_jax.errors import UserError
from fer_jax.models.bilinear import Bilinear
from fer_jax.objectives.backprop import Backprop
from fer_jax.settings import Settings

OURS = "ours"
# PyTorch's step, by how images lie in memory; the faster is what ours is compared with.
THEIRS = {"PyTorch": False, "PyTorch, channels last": True}


def bilinear(config: str, rounds: int) -> Benchmark:
  """Times a step, from augmented images to updated parameters by AdamW, here and in PyTorch, by turns.

  Ours standardises and augments as well. PyTorch runs eagerly, on the same device, with random images that lie there.

  Args:
    config: with a bilinear network, FILE.py:VARIANT; its size of image, batch and precision are taken.
    rounds: timed steps of each.

  Returns:
    a row for each: seconds, images a second, and `time_ratio` over the faster of PyTorch's.

  Raises:
    UserError: PyTorch is not installed, or the config's network is another.
  """
  settings = settings_of(config)
  if not isinstance(settings.model, Bilinear):
    raise UserError(f"--config={config}: expected a bilinear network; give --config=configs/obsr.py")
  if importlib.util.find_spec("torch") is None:
    raise UserError("PyTorch is not installed, and is what this benchmark compares with: pip install torch")
  size = settings.data.image_size or FER2013[1]
  rig = make_rig(settings.model, settings.batch_size, settings.precision, size)
  objective = Backprop().build(rig.network, frozenset(rig.network.layers), None)
  programs = {OURS: compile_program(step_of(objective), rig.arguments)}
  for name, channels_last in THEIRS.items():
    programs[name] = Program(_torch_step(settings.model, settings, size, channels_last), 0)
    programs[name].run()
  seconds = time_by_turns(programs, rounds)
  theirs = min(seconds[name] for name in THEIRS)
  rows: list[Row] = [
    {
      "name": name,
      "image_size": size,
      "batch_size": settings.batch_size,
      "seconds_a_step": seconds[name],
      "images_per_second": settings.batch_size / seconds[name],
      "time_ratio": seconds[name] / theirs,
    }
    for name in programs
  ]
  return Benchmark(OURS, rows)


def _torch_step(model: Bilinear, settings: Settings, size: int, channels_last: bool) -> Callable[[], Any]:
  import torch

  from fer_jax.apps.benchmarks.torch_resnet import BilinearResNet

  device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
  layout = torch.channels_last if channels_last else torch.contiguous_format
  placed: dict[str, Any] = {"device": device, "memory_format": layout}
  network = BilinearResNet(
    CLASSES, shared=model.shared, depth=model.depth, width=model.width, stem=model.stem, channels=FER2013[3]
  ).to(**placed)
  optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
  image = torch.randn(settings.batch_size, FER2013[3], size, size).to(**placed)
  label = torch.randint(CLASSES, (settings.batch_size,), device=device)
  half = settings.precision == "bfloat16"

  def step() -> float:
    optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=half):
      logits = network(image)
    loss = torch.nn.functional.cross_entropy(logits.float(), label)
    loss.backward()
    optimizer.step()
    return loss.item()  # waits for the device

  return step
