"""Training step and inference, compared with the same network in PyTorch."""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013, Benchmark, Row, load_settings
from fer_jax.apps.benchmarks.steps import Program, build_step, compile_program, median_seconds, step_inputs
from fer_jax.models import MODELS, ModelSettings
from fer_jax.models.bilinear import Bilinear
from fer_jax.models.ca_resnet import CaResNet
from fer_jax.models.network import Tree
from fer_jax.models.resnet import ResNet
from fer_jax.objectives.backprop import Backprop
from fer_jax.runtime import provenance
from fer_jax.runtime.errors import UserError

OURS = "ours"
# Row name -> whether PyTorch uses channels-last memory; each measurement of ours is compared with the faster format.
MEMORY_FORMATS = {"PyTorch": False, "PyTorch, channels last": True}
SUPPORTED = "resnet without squeeze_excite, bilinear or ca_resnet"
BATCH_SIZES = (1, 128)  # batch sizes of inference
# With fewer channels, a channels-last 1x1 convolution with stride 2 writes out of bounds in PyTorch 2.13 on a CPU.
MIN_WIDTH = 8
CALLS = 10  # consecutive calls at batch 1 per turn


class _Workload(NamedTuple):
  """Input that both libraries receive.

  Attributes:
    model: Settings of the network.
    image_size: Height and width of an image in pixels.
    batch_size: Images per training step.
    precision: Dtype of the computation, "float32" or "bfloat16"; parameters stay float32.
  """

  model: ModelSettings
  image_size: int
  batch_size: int
  precision: str

  def images(self, batch: int) -> np.ndarray:
    """Returns random standardised images, float32 [batch, H, W, C]."""
    shape = (batch, self.image_size, self.image_size, FER2013[3])
    return np.random.default_rng(0).standard_normal(shape, np.float32)


class _LibraryPrograms(NamedTuple):
  """One library's programs.

  Attributes:
    parameters: Number of learned parameters.
    training: Program of one training step.
    inference: Programs that compute the logits of a batch, by batch size.
  """

  parameters: int
  training: Program
  inference: dict[int, Program]


def pytorch(config: str, rounds: int, *, image_size: int | None = None, batch_size: int | None = None) -> Benchmark:
  """Times training and inference here and in PyTorch, with the same network on the same device, interleaved.

  A step is forward and backward pass, batch statistics and AdamW. Ours is the project's training step, which also
  gathers uint8 images by index, mirrors and standardises them. Inference maps float32 images to logits in
  evaluation mode. PyTorch runs eagerly, with as many threads as there are cores, and in `torch.inference_mode` for
  inference. Its threads synchronise by spinning: keep the CPU otherwise idle, or PyTorch becomes many times slower.

  Args:
    config: Config of the network, FILE.py:VARIANT; also gives the precision.
    rounds: Turns of each program; one turn is a training step, CALLS inferences at batch 1, or one at batch 128.
    image_size: Height and width of an image in pixels; by default the config's.
    batch_size: Images per training step; by default the config's.

  Returns:
    One row per library and memory format, with medians; ratios are relative to the faster memory format of PyTorch.

  Raises:
    UserError: PyTorch is not installed, or the network has no PyTorch counterpart or is narrower than MIN_WIDTH.
  """
  settings = load_settings(config)
  _check(config, settings.model)
  if importlib.util.find_spec("torch") is None:
    raise UserError("--what=torch: PyTorch is not installed; install it by `pip install torch`")
  size = image_size or settings.data.image_size or FER2013[1]
  workload = _Workload(settings.model, size, batch_size or settings.batch_size, settings.precision)
  libraries = {OURS: _our_programs(workload)} | {
    name: _pytorch_programs(workload, channels_last) for name, channels_last in MEMORY_FORMATS.items()
  }
  seconds = {"training": median_seconds({name: library.training for name, library in libraries.items()}, rounds)}
  for batch in BATCH_SIZES:
    programs = {name: library.inference[batch] for name, library in libraries.items()}
    seconds[f"inference_{batch}"] = median_seconds(programs, rounds, CALLS if batch == 1 else 0)
  return Benchmark(OURS, [_row(name, workload, library, seconds) for name, library in libraries.items()])


def _check(config: str, model: ModelSettings) -> None:
  """Raises UserError unless the network has a PyTorch counterpart that runs without memory errors."""
  has_gates = isinstance(model, ResNet) and model.squeeze_excite
  if has_gates or not isinstance(model, ResNet | Bilinear | CaResNet):
    name = next(name for name, kind in MODELS.items() if isinstance(model, kind)) + has_gates * " with squeeze_excite"
    raise UserError(f"--config={config}: expected a network with a PyTorch counterpart ({SUPPORTED}), found {name}")
  if model.width < MIN_WIDTH:
    raise UserError(
      f"--config={config}: model.width={model.width}: expected {MIN_WIDTH} or more, because PyTorch 2.13 "
      "corrupts memory in narrower networks"
    )


def _row(name: str, workload: _Workload, library: _LibraryPrograms, seconds: dict[str, dict[str, float]]) -> Row:
  ratios = {key: taken[name] / min(taken[other] for other in MEMORY_FORMATS) for key, taken in seconds.items()}
  return {
    "name": name,
    "image_size": workload.image_size,
    "batch_size": workload.batch_size,
    "parameters": library.parameters,
    "seconds_a_step": seconds["training"][name],
    "images_per_second": workload.batch_size / seconds["training"][name],
    **{f"{key}_ms": 1000 * taken[name] for key, taken in seconds.items() if key != "training"},
    **{f"{key}_ratio": ratio for key, ratio in ratios.items()},
  }


def _our_programs(workload: _Workload) -> _LibraryPrograms:
  inputs = step_inputs(workload.model, workload.batch_size, workload.precision, workload.image_size)
  objective = Backprop().build(inputs.network, frozenset(inputs.network.layers), None)
  training = compile_program(build_step(objective), inputs.arguments)

  def logits(params: Tree, stats: Tree, image: jax.Array) -> jax.Array:
    return inputs.network.apply(params, stats, image)[0].logits

  variables = (inputs.state.params, inputs.state.stats)
  inference = {
    batch: compile_program(logits, (*variables, jax.device_put(workload.images(batch)))) for batch in BATCH_SIZES
  }
  return _LibraryPrograms(inputs.parameters, training, inference)


def _pytorch_programs(workload: _Workload, channels_last: bool) -> _LibraryPrograms:
  import torch

  torch.set_num_threads(provenance.cores())
  device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
  layout = torch.channels_last if channels_last else torch.contiguous_format

  def images(batch: int) -> Any:
    # With one channel, `Tensor.to(memory_format=...)` keeps the strides, which select the kernel of the first
    # convolution. Allocating in the format and copying sets them. [B, H, W, C] -> [B, C, H, W]
    image = torch.empty((batch, FER2013[3], *2 * (workload.image_size,)), device=device, memory_format=layout)
    return image.copy_(torch.from_numpy(workload.images(batch)).permute(0, 3, 1, 2))

  def logits(network: Any, image: Any) -> Any:
    with torch.autocast(device, torch.bfloat16, enabled=workload.precision == "bfloat16"):
      return network(image)

  def program(run: Callable[..., Any], *arguments: Any) -> Program:
    def run_to_end() -> None:
      run(*arguments)
      if device == "cuda":
        torch.cuda.synchronize()

    run_to_end()  # warm-up: PyTorch selects and caches its kernels
    return Program(run_to_end, 0)

  # One network per mode: switching with `train` and `eval` visits every module, which would be timed.
  trained, evaluated = (_pytorch_network(workload.model).to(device=device, memory_format=layout) for _ in range(2))
  evaluated.eval()
  # The fused implementation of AdamW is PyTorch's fastest.
  optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3, fused=True)
  label = torch.randint(CLASSES, (workload.batch_size,), device=device)

  def step(image: Any) -> None:
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(logits(trained, image).float(), label).backward()
    optimizer.step()

  infer = torch.inference_mode()(logits)
  return _LibraryPrograms(
    sum(parameter.numel() for parameter in evaluated.parameters()),
    program(step, images(workload.batch_size)),
    {batch: program(infer, evaluated, images(batch)) for batch in BATCH_SIZES},
  )


def _pytorch_network(model: ModelSettings) -> Any:
  """Returns the same network in PyTorch, with random parameters, in training mode."""
  from fer_jax.apps.benchmarks import torch_ca_resnet, torch_resnet

  channels = FER2013[3]
  match model:
    case CaResNet():
      return torch_ca_resnet.ca_resnet(CLASSES, model, channels)
    case Bilinear():
      shape: dict[str, Any] = {"depth": model.depth, "width": model.width, "stem": model.stem}
      return torch_resnet.BilinearResNet(CLASSES, shared=model.shared, channels=channels, **shape)
    case ResNet():
      return torch_resnet.ResNet(CLASSES, model.depth, model.width, model.stem, channels)
  raise AssertionError(model)
