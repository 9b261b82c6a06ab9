"""Throughput and memory of reading a dataset of a million faces from its records."""

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from fer_jax.apps.benchmarks.benchmark import FER2013, Benchmark, Row, load_settings
from fer_jax.data import arrays as arrays_lib
from fer_jax.data import pipeline
from fer_jax.data.arrays import Arrays
from fer_jax.data.builders.synthetic_faces.crowd import DrawnCrowd, prepare_crowd
from fer_jax.runtime import provenance
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.parallel import Devices
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.initialization import initialize
from fer_jax.training.phases import plan_phases
from fer_jax.training.replicas import Replica
from fer_jax.training.step import StepContext

EXAMPLES = 1_000_000  # about the size of AffectNet
FEWEST = 100  # minimum number of examples
BATCH = 256
_ROWS_IN_MEMORY = 4096
_BATCHES_PER_ROUND = 100  # for each number of threads; the memory is measured over three times as many
_STATUS = pathlib.Path("/proc/self/status")


def streaming(config: str, rounds: int, examples: int = EXAMPLES, data_dir: pathlib.Path | None = None) -> Benchmark:
  """Writes a dataset of drawn faces, 112x112 in colour, and measures reading it.

  Args:
    config: Config, FILE.py:VARIANT; the training step is that of the first phase of its schedule, at its image size,
      with BATCH faces.
    rounds: Hundreds of batches that are read with each number of threads.
    examples: Number of faces.
    data_dir: Folder of the dataset, reused by later runs; None for a temporary folder.

  Returns:
    Rows with the `seconds` of writing (unless the dataset exists), of the first pass over all records, which reads
    every column but the images, and of a start from the cache of these columns; `images_per_second` of the pipeline
    alone by number of threads, with `memory_ratio` relative to rows gathered from memory; the same for a training step;
    and the memory of the process after a number of batches: `anonymous_bytes` (private), `file_bytes` (mapped files).

  Raises:
    UserError: There are too few examples, or the folder cannot be written.
  """
  if examples < FEWEST:
    raise UserError(f"--examples={examples}: expected {FEWEST} or more")
  with contextlib.nullcontext(data_dir) if data_dir else _temporary_folder() as folder:
    builder, written = _write_dataset(examples, folder)
    dataset, started = _time_start(builder)
    in_memory = _load_in_memory(dataset)
    threads = f"streamed, {_plural(provenance.cores(), 'thread')}"
    return Benchmark(
      threads,
      [
        *written,
        *started,
        *_pipeline_rows(dataset, in_memory, rounds),
        *_step_rows(config, builder, rounds),
        *_memory_rows(dataset, rounds),
      ],
    )


@contextlib.contextmanager
def _temporary_folder() -> Iterator[pathlib.Path]:
  with tempfile.TemporaryDirectory() as folder:
    yield pathlib.Path(folder)


def _write_dataset(examples: int, folder: pathlib.Path) -> tuple[DrawnCrowd, list[Row]]:
  start = time.perf_counter()
  try:
    exists = (folder / str(examples)).exists()  # then nothing is written, and no time is reported
    builder = prepare_crowd(examples, folder)
  except OSError as error:
    raise UserError(
      f"cannot write {examples} faces, about {5e-6 * examples:.2g} GB, to {folder} ({error.strerror or error}): give "
      "another --data_dir or free disk space"
    ) from error
  seconds = {} if exists else {"seconds": time.perf_counter() - start}
  size = sum(each.num_bytes for each in builder.info.splits.values())
  return builder, [{"name": "written", **seconds, "examples": examples, "bytes": size}]


def _time_start(builder: DrawnCrowd) -> tuple[Arrays, list[Row]]:
  """Times opening the dataset without and with the cache of its columns, which the first call writes."""
  shutil.rmtree(pathlib.Path(builder.data_dir, "arrays"), ignore_errors=True)
  rows: list[Row] = []
  for name in ("first pass over the records", "start from the cache"):
    start = time.perf_counter()
    dataset = arrays_lib.stream(builder)
    rows.append({"name": name, "seconds": time.perf_counter() - start})
  return dataset, rows


def _load_in_memory(dataset: Arrays) -> Arrays:
  """Returns the first training examples, decoded in memory, for measurements that do not depend on the dataset size."""
  rows = dataset.rows("train")[:_ROWS_IN_MEMORY]
  columns = {key: getattr(dataset, key)[rows] for key in ("image", "label", "subject", "group", "split", "image_id")}
  return dataclasses.replace(dataset, **columns)


def _pipeline_rows(dataset: Arrays, in_memory: Arrays, rounds: int) -> list[Row]:
  """Measures shuffled training batches, by number of decoding threads."""
  batches = _BATCHES_PER_ROUND * rounds
  memory_rate = _images_per_second(in_memory, batches, 0)
  rows = [{"name": "in memory", "images_per_second": memory_rate}]
  for threads in _thread_counts(provenance.cores()):
    rate = _images_per_second(dataset, batches, threads)
    name = f"streamed, {_plural(threads, 'thread')}"
    rows.append({"name": name, "images_per_second": rate, "memory_ratio": rate / memory_rate, "batches": batches})
  return rows


def _thread_counts(cores: int) -> list[int]:
  """Returns the powers of two up to the number of cores, and the number of cores."""
  return sorted({*(2**power for power in range(cores.bit_length()) if 2**power <= cores), cores})


def _images_per_second(dataset: Arrays, batches: int, threads: int) -> float:
  with contextlib.closing(_iterator(dataset, threads)) as iterator:
    next(iterator)  # starts the pipeline, which is not timed
    start = time.perf_counter()
    for _ in range(batches):
      next(iterator)
    return batches * BATCH / (time.perf_counter() - start)


def _iterator(dataset: Arrays, threads: int | None = None) -> Any:
  return pipeline.training_iterator(pipeline.ShuffledBatches(dataset, "train", BATCH, 0, host=True), threads)


def _step_rows(config: str, builder: DrawnCrowd, rounds: int) -> list[Row]:
  """Measures one training step at the config's image size, fed from memory and from the records, interleaved."""
  settings = load_settings(config)
  dataset = arrays_lib.stream(builder, settings.data.image_size or FER2013[1])
  in_memory = _load_in_memory(dataset)
  data = dataclasses.replace(settings.data, residence="host")
  settings = dataclasses.replace(settings, batch_size=BATCH, data=data)
  placement = Devices(jax.local_devices()[:1])
  initialization = initialize(settings, dataset.image.shape[1:], dataset.num_classes)
  phases = plan_phases(settings, initialization.network, placement.axis_name, len(dataset.rows("train")))
  compiled = CompiledRun(settings, initialization, phases, placement, in_memory)
  state = compiled.initial_state(phases[0], [Replica("", 0, None, in_memory)])
  context = StepContext(np.float32(0.5), np.int32(0))
  seconds = {"step, from memory": 0.0, "step, streamed": 0.0}
  sources: dict[str, Callable[[], Any]] = {
    "step, from memory": lambda: _iterator(in_memory),
    "step, streamed": lambda: _iterator(dataset),
  }
  with contextlib.ExitStack() as stack:
    iterators = {name: stack.enter_context(contextlib.closing(make())) for name, make in sources.items()}
    for number in range(rounds + 1):  # the first compiles
      for name, iterator in iterators.items():
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled.train_step(phases[0], state, [next(iterator)], [context]))
        seconds[name] += time.perf_counter() - start if number else 0.0
  memory_seconds = seconds["step, from memory"]
  return [
    {"name": name, "images_per_second": rounds * BATCH / taken, "memory_ratio": memory_seconds / taken, "steps": rounds}
    for name, taken in seconds.items()
  ]


def _memory_rows(dataset: Arrays, rounds: int) -> list[Row]:
  """Returns the memory of the process after several numbers of batches; no rows without /proc (not Linux)."""
  if not _STATUS.exists():
    return []
  batches = 3 * _BATCHES_PER_ROUND * rounds
  rows = []
  with contextlib.closing(_iterator(dataset)) as iterator:
    next(iterator)
    for batch in range(batches + 1):
      if batch in (0, batches // 3, batches):
        rows.append({"name": f"memory after {_plural(batch, 'batch', 'es')}", **_process_memory()})
      next(iterator)
  return rows


def _process_memory() -> Row:
  """Returns the resident memory of this process in bytes, as reported by the kernel."""
  values = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
  kinds = {"resident_bytes": "VmRSS", "anonymous_bytes": "RssAnon", "file_bytes": "RssFile"}
  # The kernel reports `VmRSS:  123456 kB`.
  return {name: 1024 * int(values[key].split()[0]) for name, key in kinds.items()}


def _plural(count: int, noun: str, ending: str = "s") -> str:
  return f"{count:,} {noun}{'' if count == 1 else ending}"
