"""Measures the project's claims as ratios within one process: `python -m fer_jax.apps.bench --what=objectives`."""

import argparse
from collections.abc import Callable, Sequence

import jax

from fer_jax.apps.benchmarks.benchmark import Benchmark
from fer_jax.apps.benchmarks.benchmark_result import BenchmarkResult
from fer_jax.apps.benchmarks.centralization import gc, layouts
from fer_jax.apps.benchmarks.detectors import detection
from fer_jax.apps.benchmarks.gpu import gpu
from fer_jax.apps.benchmarks.gpu_target import TARGETS
from fer_jax.apps.benchmarks.inference import inference
from fer_jax.apps.benchmarks.live import live
from fer_jax.apps.benchmarks.memory import memory
from fer_jax.apps.benchmarks.objectives import objectives, parts
from fer_jax.apps.benchmarks.pipeline import pipeline_rates
from fer_jax.apps.benchmarks.prediction import prediction
from fer_jax.apps.benchmarks.pytorch import pytorch
from fer_jax.apps.benchmarks.replicas import replicas
from fer_jax.apps.benchmarks.scaling import scaling
from fer_jax.apps.benchmarks.shipped import shipped
from fer_jax.apps.benchmarks.startup import startup
from fer_jax.apps.benchmarks.strategies import strategies
from fer_jax.apps.benchmarks.streaming import EXAMPLES, streaming
from fer_jax.apps.benchmarks.table1 import table1
from fer_jax.runtime import errors, provenance, typed_json, xla
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path

# Each function takes a config, FILE.py:VARIANT, and the number of rounds; some also take the flags of FLAGS.
BENCHMARKS: dict[str, Callable[..., Benchmark]] = {
  "objectives": objectives,
  "parts": parts,
  "table1": table1,
  "torch": pytorch,
  "pipeline": pipeline_rates,
  "replicas": replicas,
  "strategies": strategies,
  "layouts": layouts,
  "gc": gc,
  "inference": inference,
  "predict": prediction,
  "live": live,
  "memory": memory,
  "streaming": streaming,
  "scaling": scaling,
  "startup": startup,
  "shipped": shipped,
  "detectors": detection,
  "gpu": gpu,
}
# Flags that only one benchmark accepts -> that benchmark.
FLAGS = {
  "examples": "streaming",
  "data_dir": "streaming",
  "image_size": "torch",
  "batch_size": "torch",
  "yunet": "detectors",
  "target": "gpu",
}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one benchmark, prints its table and writes its JSON."""
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.bench",
    description="Run one benchmark; all ratios are measured within one process. objectives: training step of the HSIC "
    "bottleneck against its back-propagated twin; parts: time of each part of these two steps; "
    "table1: dense network against AlexNet, Inception v2 and ResNet-50; torch: training step and inference against "
    "PyTorch, for a residual, bilinear or CA-ResNet network; pipeline: images per second of the input pipeline; "
    "replicas: folds as one program against separate runs; "
    "strategies: training step of several replicas run sequentially, vectorised, or on all devices; "
    "layouts: mean gradient per unit that remains after gradient centralization; gc: cost of gradient centralization; "
    "inference: latency, images per second and weight bytes of every network, compared with that of --config; "
    "predict: photographs per second, and the effect of the batch size on the predictions; live: frames per second and "
    "delay of the live window, and of its threads alone; memory: peak memory of a short training run, predict and "
    "the live window, each in a separate process; streaming: images per second and memory when a large dataset is "
    "decoded from its records; scaling: bytes sent per step, and the predicted efficiency on 2 to 64 devices; "
    "startup: seconds from process start to the first step of the five demos; shipped: accuracy and "
    "calibration on FER2013 of the network shipped with the package; detectors: faces that each detector finds in "
    "photographs, and its images per second; gpu: memory, kernels and estimated time of steps that are compiled for a "
    "GPU, without one.",
  )
  parser.add_argument("--what", required=True, choices=sorted(BENCHMARKS), help="benchmark to run")
  parser.add_argument("--config", default="configs/hsic.py:small", help="network and batch size (default: %(default)s)")
  parser.add_argument("--rounds", type=int, default=10, help="repetitions of each measurement (default: %(default)s)")
  parser.add_argument(
    "--examples", type=int, help=f"streaming: number of faces to write and read (default: {EXAMPLES})"
  )
  parser.add_argument(
    "--data_dir", type=local_path, help="streaming: folder for the faces, reused by later runs (default: temporary)"
  )
  parser.add_argument("--image_size", type=int, help="torch: image height and width in pixels (default: the config's)")
  parser.add_argument("--batch_size", type=int, help="torch: images per training step (default: the config's)")
  parser.add_argument(
    "--yunet", type=local_path, metavar="MODEL", help="detectors: YuNet's model (default: the downloaded one)"
  )
  parser.add_argument("--target", choices=TARGETS, help="gpu: GPU to compile for (default: h100)")
  parser.add_argument("--out", type=local_path, help="JSON file to write the rows to, in addition to printing them")
  options = parser.parse_args(arguments)
  for key in ("rounds", "image_size", "batch_size"):
    if (number := getattr(options, key)) is not None and number < 1:
      raise UserError(f"--{key}={number}: expected 1 or more")
  specific = {key: getattr(options, key) for key in FLAGS if getattr(options, key) is not None}
  for key in specific:
    if FLAGS[key] != options.what:
      raise UserError(f"--{key}: only valid with --what={FLAGS[key]}; leave it out")
  xla.prepare()
  headline, rows = BENCHMARKS[options.what](options.config, options.rounds, **specific)
  result = BenchmarkResult(
    what=options.what,
    config=options.config,
    device=provenance.device(jax.local_devices()[:1]),
    versions=provenance.versions(),
    commit=provenance.commit(),
    seeds=(0,),
    rounds=options.rounds,
    headline=headline,
    rows=tuple(rows),
  )
  print(f"{result.what} on {result.device}, {result.config}")
  for row in rows:
    figures = "  ".join(f"{key} {value:,.4g}" for key, value in row.items() if key != "name")
    print(f"  {row['name']:<36} {figures}")
  if options.out:
    typed_json.write(options.out, result.to_json())


if __name__ == "__main__":
  errors.run(main)
