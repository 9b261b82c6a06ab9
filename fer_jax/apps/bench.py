"""Measures what the project claims, as ratios inside one process: `python -m fer_jax.apps.bench --what=objectives`."""

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import errors, provenance
from fer_jax.command_line import load_config
from fer_jax.config import Settings, parse
from fer_jax.data import pipeline
from fer_jax.data.arrays import Arrays
from fer_jax.data.augment import Augmentation
from fer_jax.data.batch import Batch
from fer_jax.errors import UserError
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import GROUPS, HsicBottleneck
from fer_jax.optim import Optimizer
from fer_jax.parallel import Devices
from fer_jax.step import Resident, TrainState, make_train_step

Row = dict[str, Any]
_FER2013 = (28709, 48, 48, 1)  # the training split's size: what the pipeline is promised for


class Benchmark(NamedTuple):
  """What a benchmark found.

  Attributes:
    headline: the name of the row that stands for the rest: the project as it is configured.
    rows: a dict for each candidate, its `name` first.
  """

  headline: str
  rows: list[Row]


def objectives(config: str, rounds: int) -> Benchmark:
  """Times a training step of the HSIC bottleneck, by every grouping, against its back-propagated twin.

  Args:
    config: whose network, batch size and precision are taken, FILE.py:VARIANT; it must have an hsic_bottleneck phase.
    rounds: timed steps of each; the candidates take turns, so that a slow moment meets all.

  Returns:
    a row for each candidate, with `time_ratio` and `memory_ratio` (peak temporary memory) over the twin's.
  """
  settings = parse(load_config(config))
  local = [p.objective for p in settings.phases.values() if isinstance(p.objective, HsicBottleneck)]
  if not local:
    raise UserError(f"--config={config}: has no phase whose objective is hsic_bottleneck")
  candidates: dict[str, Any] = {"backprop": Backprop()}
  candidates |= {f"hsic_bottleneck, group={g}": dataclasses.replace(local[0], group=g) for g in GROUPS}
  steps = {name: _compiled_step(settings, objective) for name, objective in candidates.items()}
  seconds: dict[str, list[float]] = {name: [] for name in steps}
  for _ in range(rounds):
    for name, (run, _) in steps.items():
      seconds[name].append(_time(run))
  twin_seconds, twin_bytes = statistics.median(seconds["backprop"]), steps["backprop"][1]
  rows = []
  for name, (_, temporary) in steps.items():
    median = statistics.median(seconds[name])
    rows.append(
      {
        "name": name,
        "seconds_a_step": median,
        "temporary_bytes": temporary,
        "time_ratio": median / twin_seconds,
        "memory_ratio": temporary / twin_bytes,
        "images_per_second": settings.batch_size / median,
      }
    )
  return Benchmark(f"hsic_bottleneck, group={local[0].group}", rows)


def pipeline_rates(config: str, rounds: int) -> Benchmark:
  """Measures shuffled training batches a second, as indices and as gathered rows, of a FER2013-sized set."""
  batch_size = parse(load_config(config)).batch_size
  n = _FER2013[0]
  generator = np.random.default_rng(0)
  arrays = Arrays(
    image=generator.integers(0, 256, _FER2013, dtype=np.uint8),
    label=generator.integers(0, 7, n).astype(np.int32),
    subject=np.full(n, ""),
    group=np.arange(n, dtype=np.int32),
    split=np.full(n, "train"),
    class_names=tuple("abcdefg"),
  )
  rows = []
  for name, host in (("indices", False), ("uint8 rows", True)):
    iterator = pipeline.training_iterator(pipeline.ShuffledBatches(arrays, "train", batch_size, seed=0, host=host))
    next(iterator)
    batches = 100 * rounds
    start = time.perf_counter()
    for _ in range(batches):
      next(iterator)
    rows.append({"name": name, "images_per_second": batches * batch_size / (time.perf_counter() - start)})
  return Benchmark("indices", rows)


BENCHMARKS: dict[str, Callable[[str, int], Benchmark]] = {"objectives": objectives, "pipeline": pipeline_rates}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one benchmark, prints its table and writes its JSON."""
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.bench", description="Measure a claim of the project; ratios come from one process."
  )
  parser.add_argument("--what", required=True, choices=sorted(BENCHMARKS), help="which benchmark")
  parser.add_argument("--config", default="configs/hsic.py:small", help="network and batch size (default: %(default)s)")
  parser.add_argument("--rounds", type=int, default=10, help="repetitions of each measurement (default: %(default)s)")
  parser.add_argument("--out", type=Path, help="also write the rows to this JSON file")
  options = parser.parse_args(arguments)
  if options.rounds < 1:
    raise UserError(f"--rounds={options.rounds}: expected 1 or more")
  headline, rows = BENCHMARKS[options.what](options.config, options.rounds)
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
    print(f"  {row['name']:<32} {figures}")
  if options.out:
    part = options.out.with_name(options.out.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, options.out)


def _compiled_step(settings: Settings, objective: Any) -> tuple[Callable[[], Any], int]:
  """Returns a function that takes a training step on random data, and the step's peak temporary memory in bytes."""
  devices = Devices(jax.local_devices()[:1])
  network = settings.model.build(7, jnp.dtype(settings.precision), None)
  shape = (4 * settings.batch_size, *_FER2013[1:])
  generator = np.random.default_rng(0)
  resident = devices.replicate(
    Resident(
      generator.integers(0, 256, shape, dtype=np.uint8),
      np.eye(7, dtype=np.float32)[generator.integers(0, 7, shape[0])],
    )
  )
  params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *shape[1:])))
  trainable = frozenset(network.layers)
  optimizer = Optimizer().build()
  step = make_train_step(objective.build(network, trainable, None), optimizer, Augmentation(), seed=0)
  state = TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))
  index = generator.integers(0, shape[0], settings.batch_size).astype(np.int32)
  batch = Batch(index, np.ones(len(index), bool))
  progress = np.float32(0.5)
  compiled = jax.jit(step).lower(state, resident, batch, progress).compile()
  memory = compiled.memory_analysis()
  if memory is None:
    raise UserError(f"{jax.default_backend()}: this backend does not say how much memory a program takes")
  run = lambda: compiled(state, resident, batch, progress)  # noqa: E731
  jax.block_until_ready(run())
  return run, memory.temp_size_in_bytes


def _time(run: Callable[[], Any]) -> float:
  start = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - start


if __name__ == "__main__":
  errors.run(main)
