"""Measures what the project claims, as ratios inside one process: `python -m fer_jax.apps.bench --what=objectives`."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from fer_jax import errors, provenance, xla
from fer_jax.apps.benchmarks.benchmark import Benchmark
from fer_jax.apps.benchmarks.centralization import gc, layouts
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
from fer_jax.apps.report_page.run_files import write_text
from fer_jax.errors import UserError

# Each takes a config, FILE.py:VARIANT, and the number of rounds; some take flags of their own as well.
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
}
FLAGS = {"examples": "streaming", "data_dir": "streaming", "image_size": "torch", "batch_size": "torch"}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one benchmark, prints its table and writes its JSON."""
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.bench",
    description="Measure a claim of the project; ratios come from one process. objectives: a step of the HSIC "
    "bottleneck against its back-propagated twin; parts: where the time of both goes; "
    "table1: the dense network against known ones; torch: a training step and inference against PyTorch, for a "
    "residual, bilinear or CA-ResNet network; pipeline: batches a second; "
    "replicas: folds as one program against runs in sequence; "
    "strategies: a step of several trainings in turn, side by side, on all devices; "
    "layouts: what gradient centralization leaves of each unit's mean gradient; gc: what it costs; "
    "inference: latency, images a second and bytes of weights of every network, beside that of --config; "
    "predict: photographs a second, and whether the batch size changes an answer; live: frames a second and "
    "delay of the live window, and of its threads alone; memory: the peak of a short training, of predict and of the "
    "live window, each in a process of its own; streaming: images a second and memory where a large set is "
    "decoded from its records; scaling: bytes that a step sends, and what they leave of the speed of 2 to 64 devices; "
    "startup: seconds from the start of a process to the first step, of the five demos; shipped: accuracy and "
    "calibration of the network of the package on FER2013.",
  )
  parser.add_argument("--what", required=True, choices=sorted(BENCHMARKS), help="which benchmark")
  parser.add_argument("--config", default="configs/hsic.py:small", help="network and batch size (default: %(default)s)")
  parser.add_argument("--rounds", type=int, default=10, help="repetitions of each measurement (default: %(default)s)")
  parser.add_argument("--examples", type=int, help=f"streaming: faces that are written and read (default: {EXAMPLES})")
  parser.add_argument(
    "--data_dir", type=Path, help="streaming: the folder to write them to, where the next run finds them again"
  )
  parser.add_argument("--image_size", type=int, help="torch: pixels of a side of an image (default: the config's)")
  parser.add_argument("--batch_size", type=int, help="torch: images in a training step (default: the config's)")
  parser.add_argument("--out", type=Path, help="also write the rows to this JSON file")
  options = parser.parse_args(arguments)
  for key in ("rounds", "image_size", "batch_size"):
    if (number := getattr(options, key)) is not None and number < 1:
      raise UserError(f"--{key}={number}: expected 1 or more")
  its_own = {key: getattr(options, key) for key in FLAGS if getattr(options, key) is not None}
  for key in its_own:
    if FLAGS[key] != options.what:
      raise UserError(f"--{key}: expected with --what={FLAGS[key]} alone")
  xla.prepare()
  headline, rows = BENCHMARKS[options.what](options.config, options.rounds, **its_own)
  content = {
    "what": options.what,
    "config": options.config,
    "device": provenance.device(jax.local_devices()[:1]),
    "versions": provenance.versions(),
    "commit": provenance.commit(),
    "seeds": [0],
    "rounds": options.rounds,
    "headline": headline,
    **{key: value for row in rows if row["name"] == headline for key, value in row.items() if key != "name"},
    "rows": rows,
  }
  print(f"{options.what} on {content['device']}, {options.config}")
  for row in rows:
    figures = "  ".join(f"{key} {value:,.4g}" for key, value in row.items() if key != "name")
    print(f"  {row['name']:<36} {figures}")
  if options.out:
    write_text(options.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
  errors.run(main)
