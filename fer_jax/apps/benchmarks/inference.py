"""Cost of inference: latency at batch 1, images per second in batches, bytes of weights."""

import importlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013, Benchmark, Row, load_settings, random_variables
from fer_jax.apps.benchmarks.steps import interleaved_seconds
from fer_jax.config.settings import Settings
from fer_jax.data.augment import standardize
from fer_jax.inference.quantization import cast, dequantize, num_bytes, quantize
from fer_jax.models import ModelSettings
from fer_jax.models.network import Network, Tree

# Every network at its published size, with the image size of its config.
NETWORKS = {
  "separable_se": "configs/separable_se.py",
  "two_channel": "configs/separable_se.py:two_channel",
  "mini_xception": "configs/baselines.py:mini_xception",
  "xception": "configs/baselines.py:xception",
  "bn_inception": "configs/baselines.py:bn_inception",
  "mobilenet_v3": "configs/baselines.py:mobilenet_v3",
  "resnet18": "configs/baselines.py:resnet18",
  "se_resnet18": "configs/baselines.py:se_resnet18",
  "resnet34": "configs/baselines.py:resnet34",
  "resnet50": "configs/baselines.py:resnet50",
  "densenet121": "configs/baselines.py:densenet121",
  "vgg19": "configs/baselines.py:vgg19",
  "alexnet": "configs/baselines.py:alexnet",
  "hsic_dense": "configs/hsic.py",
  "cifar_resnet": "configs/resnet.py",
  "ca_resnet": "configs/ca_resnet.py",
  "bilinear": "configs/obsr.py",
}
Run = Callable[[], Any]
Compress = Callable[[Any], Any]  # function from parameters to compressed parameters
# A config of this file is compared with the networks of this file instead of NETWORKS.
FER2013_CONFIG = "configs/fer2013.py"
# Networks that are also measured with compressed weights, in addition to the headline; and the compressions.
COMPRESSED = ("resnet34", "mini_xception", "xception")
COMPRESSIONS: dict[str, Compress] = {"bfloat16 weights": cast, "int8 weights": quantize}

BATCH = 128
SAMPLES = 1500  # as in the timings of the paper
CALLS = 10  # consecutive calls at batch 1 per turn
# Time limit per program: no further turn after that many seconds, so a slow program may run only once.
LATENCY_SECONDS, THROUGHPUT_SECONDS = 2.5, 6.0


class PaperFigures(NamedTuple):
  """Figures of the paper's table 5: seconds for 1,500 samples, accuracy on CK+, number of parameters."""

  seconds: float
  accuracy: float
  parameters: int


# The paper does not specify its Inception version; ours is Inception v2, with three times as many parameters.
PRINTED = {
  "separable_se": PaperFigures(19.94, 0.9757, 5_835_265),
  "bn_inception": PaperFigures(16.37, 0.9458, 3_807_300),
  "xception": PaperFigures(114.75, 0.9630, 33_452_455),
}
PAPER_NETWORK = "separable_se"


class _Candidate(NamedTuple):
  """A network and the height and width of its images, in pixels."""

  model: ModelSettings
  image_size: int


class _CompiledNetwork(NamedTuple):
  """A compiled network.

  Attributes:
    single: Function that classifies one image.
    batch: Function that classifies BATCH images.
    columns: Columns image_size, parameters, weight_bytes and multiply_adds.
  """

  single: Run
  batch: Run
  columns: Row


def inference(config: str, rounds: int) -> Benchmark:
  """Times inference of every network, from uint8 images on the host to probabilities, interleaved in one process.

  Weights are random. Compressed weights are decompressed inside the program on every call; the ratios of such a row
  show both the cost and the savings.

  Args:
    config: Config of the headline network, FILE.py:VARIANT; its precision applies to all networks.
    rounds: Maximum turns per program, each of CALLS calls at batch 1 or of one run at batch BATCH; slow programs have
      fewer.

  Returns:
    One row per network, the headline's first. Latencies are the median and the 95th percentile of `latency_calls`
    calls. `images_per_second` uses the median of `batch_runs` runs, without the first unless it is the only one;
    `seconds_1500` is derived from it. Columns with the suffix `_ratio` are relative to the headline
    (`paper_seconds_ratio`: to PAPER_NETWORK), columns with `_over_float32` to the same network with float32 weights.
  """
  settings = load_settings(config)
  candidates = _candidates(config, settings)
  headline = next(iter(candidates))
  networks: dict[str, _CompiledNetwork] = {}
  for name, candidate in candidates.items():
    network = candidate.model.build(CLASSES, jnp.dtype(settings.precision), None)
    compressions: dict[str, Compress] = {name: lambda params: params}
    if name in (headline, *COMPRESSED):
      compressions |= {_compressed_name(name, form): compress for form, compress in COMPRESSIONS.items()}
    networks |= _compile(network, candidate.image_size, compressions)
  single = {name: each.single for name, each in networks.items()}
  batch = {name: each.batch for name, each in networks.items()}
  calls = interleaved_seconds(single, rounds, CALLS, LATENCY_SECONDS)
  runs = interleaved_seconds(batch, rounds, limit=THROUGHPUT_SECONDS)
  rows = {name: _row(name, each.columns, calls[name], _without_warmup(runs[name])) for name, each in networks.items()}
  for row in rows.values():
    _compare(row, rows[headline], "ratio")
  for name in {headline, *COMPRESSED} & rows.keys():
    for form in COMPRESSIONS:
      row = rows[_compressed_name(name, form)]
      _compare(row, rows[name], "over_float32")
      row["bytes_over_float32"] = row["weight_bytes"] / rows[name]["weight_bytes"]
  return Benchmark(headline, list(rows.values()))


def _candidates(config: str, settings: Settings) -> dict[str, _Candidate]:
  """Returns the networks by name, the config's own first, under the name of an identical published one if any."""
  file = config.partition(":")[0]
  if file == FER2013_CONFIG:
    sources = {name: f"{FER2013_CONFIG}:{name}" for name in importlib.import_module("configs.fer2013").NETWORKS}
  else:
    sources = NETWORKS
  published = {name: _candidate(load_settings(source)) for name, source in sources.items()}
  own = _candidate(settings)
  name = next((name for name, candidate in published.items() if candidate == own), config)
  return {name: own, **published}


def _candidate(settings: Settings) -> _Candidate:
  return _Candidate(settings.model, settings.data.image_size or FER2013[1])


def _compressed_name(name: str, form: str) -> str:
  return f"{name}, {form}"


def _compile(network: Network, size: int, compressions: Mapping[str, Compress]) -> dict[str, _CompiledNetwork]:
  """Compiles a network for one and for BATCH grey images, with each compression of its weights, by name of the row."""
  generator = np.random.default_rng(0)
  image = generator.integers(0, 256, (BATCH, size, size, FER2013[3]), dtype=np.uint8)
  params, stats = random_variables(network, image[:1].shape)

  def classify(weights: Tree, stats: Tree, image: jax.Array) -> jax.Array:
    outputs, _ = network.apply(dequantize(weights), stats, standardize(image))
    return jax.nn.softmax(outputs.logits)

  def compiled(weights: Tree, image: np.ndarray) -> Run:
    program = jax.jit(classify).lower(weights, stats, image).compile()
    return lambda: jax.block_until_ready(program(weights, stats, image))

  # XLA counts a multiply-add as two operations; activations and normalisation contribute little.
  lowered = jax.jit(network.apply).lower(params, stats, standardize(jnp.asarray(image[:1])))
  operations = (lowered.cost_analysis() or {})["flops"]

  parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
  networks = {}
  for name, compress in compressions.items():
    weights = compress(params)
    columns = {"image_size": size, "parameters": parameters, "weight_bytes": num_bytes(weights)}
    columns["multiply_adds"] = operations / 2
    networks[name] = _CompiledNetwork(compiled(weights, image[:1]), compiled(weights, image), columns)
  return networks


def _without_warmup(seconds: list[float]) -> list[float]:
  return seconds[1:] or seconds


def _row(name: str, columns: Row, calls: list[float], runs: list[float]) -> Row:
  row = {
    "name": name,
    **columns,
    "latency_ms": 1000 * statistics.median(calls),
    "latency_p95_ms": 1000 * float(np.percentile(calls, 95)),
    "images_per_second": BATCH / statistics.median(runs),
    "seconds_1500": SAMPLES * statistics.median(runs) / BATCH,
    "latency_calls": len(calls),
    "batch_runs": len(runs),
  }
  if printed := PRINTED.get(name):
    row["paper_seconds_1500"] = printed.seconds
    row["paper_seconds_ratio"] = printed.seconds / PRINTED[PAPER_NETWORK].seconds
    row["paper_accuracy"] = printed.accuracy
    row["paper_parameters"] = printed.parameters
  return row


def _compare(row: Row, other: Row, name: str) -> None:
  """Adds the latency and throughput ratios over another row, as columns with this suffix."""
  row[f"latency_{name}"] = row["latency_ms"] / other["latency_ms"]
  row[f"seconds_{name}"] = row["seconds_1500"] / other["seconds_1500"]
