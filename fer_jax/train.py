"""A whole run: data, phases, evaluation, checkpoints, results; the order of operations and the side effects."""

import dataclasses
import functools
import math
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fer_jax import provenance
from fer_jax.checkpoint import Checkpoints, Clock
from fer_jax.config import DataSettings, Settings, parse
from fer_jax.data import arrays as arrays_lib
from fer_jax.data import pipeline, splits
from fer_jax.data.arrays import Arrays
from fer_jax.errors import Failure
from fer_jax.evaluate import Evaluation, evaluate, per_class, worst_mistakes
from fer_jax.initialization import Initialization, initialize
from fer_jax.interruption import Interrupted, Signals
from fer_jax.parallel import Devices
from fer_jax.phases import Phase, plan
from fer_jax.run_log import RunLog
from fer_jax.step import Resident, TrainState, make_eval_step
from fer_jax.workdir import Workdir

_RESIDENT_BYTES = 2 * 1024**3  # a split up to this size lives on the device
_WORST = 48  # mistakes kept for the report's gallery
_SAMPLES = 24  # augmented training images kept for the report


def train_and_evaluate(
  config: ConfigDict,
  workdir: Path,
  source: str = "",
  overrides: Sequence[str] = (),
  devices: Devices | None = None,
) -> dict[str, Any]:
  """Trains a config to its end, evaluates the test split once and writes the results.

  Called again with the same config and folder it resumes from the newest checkpoint; after the end it
  returns the result again.

  Args:
    config: see `fer_jax.config.Settings`.
    workdir: folder of the run; made when absent.
    source: where the config was read from, for the record.
    overrides: from the command line, for the record.
    devices: to train on; default all local ones.

  Returns:
    the content of result.json.

  Raises:
    UserError: the config, the data or the folder is not as expected; nothing has been written.
    Failure: the training diverged.
    Interrupted: SIGINT or SIGTERM came; everything is saved.
  """
  started = time.monotonic()
  settings = parse(config)
  devices = devices or Devices()
  devices.check_batch(settings.batch_size, "config.batch_size")
  devices.check_batch(settings.eval_batch_size, "config.eval_batch_size")
  folder = Workdir(workdir)
  folder.check(config)  # before data is prepared for a run that may not be
  if folder.result is not None:
    print(f"{workdir} holds a finished run; its result is shown again")
    return folder.result
  arrays = load_data(settings.data, settings.seed)
  network = settings.model.build(arrays.num_classes, jnp.dtype(settings.precision), devices.axis_name)
  beginning = initialize(settings, network, arrays.image.shape[1:])
  origin = {"versions": provenance.versions(), "commit": provenance.commit()}  # at the start: a checkout may move on
  folder.claim(config, source, overrides, provenance.device(devices.devices))
  with (
    Signals() as signals,
    RunLog(workdir, time.monotonic() - started) as log,
    Checkpoints(workdir / "checkpoints") as checkpoints,
  ):
    run = _Run(settings, arrays, beginning, devices, log, checkpoints, signals)
    stopped = run.train()
    result = run.result(stopped, folder)
    result |= {"config": source, "device": provenance.device(devices.devices), **origin}
    folder.write_json("result.json", result)
  return result


def load_data(settings: DataSettings, seed: int) -> Arrays:
  """Returns the dataset that a config names, with a validation split held out where it has none."""
  arrays = arrays_lib.load(
    settings.name, settings.data_dir or None, image_size=settings.image_size or None, labels=settings.labels
  )
  return splits.with_validation(arrays, settings.validation_share, seed)


class _Run:
  """A run between its first and its last step."""

  def __init__(
    self,
    settings: Settings,
    arrays: Arrays,
    beginning: Initialization,
    devices: Devices,
    log: RunLog,
    checkpoints: Checkpoints,
    signals: Signals,
  ):
    self.settings, self.arrays, self.devices, self.log = settings, arrays, devices, log
    self.beginning, self.network = beginning, beginning.network
    self.checkpoints, self.signals = checkpoints, signals
    with log.timing("prepare"):
      self.rows = len(arrays.rows("train"))
      self.phases = plan(settings, self.network, devices, self.rows)
      self.eval_step = devices.compile_eval(make_eval_step(self.network, devices.axis_name))
      self.host = {split: self._stays_on_host(split) for split in arrays_lib.SPLITS}
      batches = pipeline.ShuffledBatches(arrays, "train", settings.batch_size, settings.seed, host=self.host["train"])
      self.iterator = pipeline.training_iterator(batches)
      self.clock = Clock()
      self.state = self._restore() or self._begin()
      self.training_data = self._resident("train")
      self.eval_seconds = 0.0

  def train(self) -> str:
    """Runs every phase that is left; returns why training ended."""
    stopped = "finished"
    while self.clock.phase < len(self.phases):
      phase = self.phases[self.clock.phase]
      with self.log.timing("train"):
        ended = self._run_phase(phase)
      if ended == "early stopping":
        self.log.event(self.clock.step, f"phase {phase.name}: early stopping")
      stopped = stopped if ended == "finished" else ended
      accuracy = self._validate(phase)
      self._next_phase()
      self._save(accuracy)
    return stopped

  def result(self, stopped: str, folder: Workdir) -> dict[str, Any]:
    """Reads the test split, once, with the parameters that did best on validation; keeps its predictions."""
    notes = list(self.arrays.notes)
    variables = (self.state.params, self.state.stats)
    try:
      if self.clock.best_step >= 0:
        variables = self.checkpoints.restore_variables(self.clock.best_step)
    except Exception as error:  # orbax names no common ancestor for what a damaged file raises
      notes.append(f"the best checkpoint, of step {self.clock.best_step}, cannot be read; the last step was tested")
      self.log.event(self.clock.step, f"warning: {notes[-1]} ({type(error).__name__})")
    test = self._evaluate("test", variables)
    self.log.evaluation("test", self.clock.best_step, self.phases[-1].name, test.accuracy, test.loss)
    rows = self.arrays.rows("test")
    label = np.asarray(self.arrays.label)[rows]
    worst = worst_mistakes(test.probability, label, _WORST)
    folder.write_arrays(
      "predictions.npz",
      index=rows,
      label=label,
      probability=test.probability,
      worst=worst,
      worst_image=np.asarray(self.arrays.image)[rows[worst]],
      sample_image=self._augmented_samples(),
    )
    parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
    loaded = self.beginning.loaded
    return {
      "accuracy": test.accuracy,
      "loss": test.loss,
      "confusion_matrix": test.confusion.tolist(),
      "class_names": list(self.arrays.class_names),
      "per_class": per_class(test.confusion, self.arrays.class_names),
      "validation": {"accuracy": self.clock.best_accuracy, "step": self.clock.best_step},
      "seconds": self.log.seconds,
      "time": self.log.times,
      "stopped": stopped,
      "steps": self.clock.step,
      "parameters": parameters,
      "peak_memory_bytes": self.devices.peak_memory() or _peak_resident_bytes(),
      "dataset": self.settings.data.name,
      "notes": notes,
      "measured": {
        "test accuracy": test.accuracy,
        "seconds a step": self.log.seconds_a_step,
        "parameters": parameters,
      },
      "pretrained": dataclasses.asdict(loaded.report) if loaded is not None else None,
      "seeds": [self.settings.seed],
      "runs": [{"seed": self.settings.seed, "accuracy": test.accuracy}],
    }

  def _run_phase(self, phase: Phase) -> str:
    """Takes the steps of a phase; returns why it ended."""
    settings, clock = self.settings, self.clock
    steps_of = functools.partial(_steps, phase.steps, self.rows, settings.batch_size)
    log_every = steps_of(settings.log_every)
    evaluate_every, checkpoint_every = steps_of(settings.evaluate_every), steps_of(settings.checkpoint_every)
    unlogged = None
    while (progress := self._progress(phase)) < 1:
      if self.signals.signum is not None:
        self._stop_for_signal(self.signals.signum)
      batch = self.devices.split(next(self.iterator))
      self.state, metrics = phase.step(self.state, self.training_data, batch, np.float32(progress))
      clock.step += 1
      clock.phase_step += 1
      if unlogged is not None:  # fetched a step late: the device has its next step before the host waits
        self._log(phase, *unlogged)
      logged = clock.phase_step % log_every == 0 or clock.phase_step == 1
      unlogged = (clock.step, progress, metrics) if logged else None
      if clock.phase_step % evaluate_every == 0 and clock.phase_step < phase.steps:
        self._save(self._validate(phase))
        if phase.patience and clock.worse >= phase.patience:
          return "early stopping"
      elif clock.phase_step % checkpoint_every == 0:
        self._require_finite(metrics)
        self._save(None)
    if unlogged is not None:
      self._log(phase, *unlogged)
    return "time budget" if clock.phase_step < phase.steps else "finished"

  def _progress(self, phase: Phase) -> float:
    """Returns how much of a phase is behind: by steps, or by the clock where a budget is the tighter."""
    by_steps = self.clock.phase_step / phase.steps
    budget = 60 * self.settings.budget_minutes
    if not budget or not self.clock.phase_step:  # a phase takes one step at least
      return by_steps
    rows = [len(self.arrays.rows(split)) for split in ("validation", "test")]
    # What comes after training: both splits once more, the files, the report.
    reserve = 15 + 1.3 * (self.eval_seconds or 20) * sum(rows) / max(rows[0], 1)
    planned = [p.steps for p in self.phases]
    share = sum(planned[: self.clock.phase + 1]) / sum(planned)
    end = max(budget - reserve, 0.5 * budget) * share
    begin = self.clock.phase_seconds
    return max(by_steps, (self.log.seconds - begin) / max(end - begin, 1e-3))

  def _validate(self, phase: Phase) -> float | None:
    """Returns the validation accuracy, noting the best; None while no phase has trained the classifier."""
    reached = self.phases[: self.clock.phase + 1]
    if not any(self.network.classifier in p.trainable for p in reached):
      return None
    start = time.monotonic()
    found = self._evaluate("validation", (self.state.params, self.state.stats))
    self.eval_seconds = time.monotonic() - start
    if not math.isfinite(found.loss):
      self._diverged("validation loss", found.loss)
    clock = self.clock
    self.log.evaluation("validation", clock.step, phase.name, found.accuracy, found.loss)
    self.log.forget_rate()
    clock.worse = 0 if found.accuracy > clock.phase_best else clock.worse + 1
    clock.phase_best = max(clock.phase_best, found.accuracy)
    if found.accuracy >= clock.best_accuracy:  # of equals the later, as the checkpoints' policy keeps it
      clock.best_accuracy, clock.best_step = found.accuracy, clock.step
    return found.accuracy

  def _evaluate(self, split: str, variables: Any) -> Evaluation:
    with self.log.timing("evaluate"):
      batches = pipeline.evaluation_batches(self.arrays, split, self.settings.eval_batch_size, host=self.host[split])
      return evaluate(self.eval_step, self.devices, self.devices.replicate(variables), self._resident(split), batches)

  def _log(self, phase: Phase, step: int, progress: float, metrics: dict[str, jax.Array]) -> None:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    self._require_finite(values)
    values["learning_rate"] = phase.learning_rate(progress)
    epoch = step * self.settings.batch_size / self.rows
    self.log.train(
      step, epoch, phase.name, values, batch_size=self.settings.batch_size, left=f"{100 * progress:3.0f} %"
    )

  def _require_finite(self, metrics: dict[str, Any]) -> None:
    loss = float(metrics["loss"])
    if not math.isfinite(loss):
      self._diverged("loss", loss)

  def _diverged(self, what: str, value: float) -> None:
    phase = self.phases[self.clock.phase].name
    kept = self.checkpoints.newest_step
    raise Failure(
      f"training diverged: {what} is {value} at step {self.clock.step} in phase {phase}; lower "
      f"config.phases.{phase}.optimizer.learning_rate or set its clip_norm"
      + (f" (the checkpoint of step {kept} is kept)" if kept is not None else "")
    )

  def _next_phase(self) -> None:
    clock = self.clock
    clock.phase, clock.phase_step, clock.phase_seconds = clock.phase + 1, 0, self.log.seconds
    clock.worse, clock.phase_best = 0, Clock().phase_best
    if clock.phase < len(self.phases):
      next_phase = self.phases[clock.phase]
      self.state = self.devices.replicate(next_phase.begin(clock.step, self.state.params, self.state.stats))

  def _save(self, accuracy: float | None) -> None:
    self.clock.seconds = self.log.seconds
    self.checkpoints.save(self.state, self.iterator, self.clock, accuracy)

  def _stop_for_signal(self, signum: int) -> None:
    self._save(None)
    text = f"stopped by {signal.Signals(signum).name} at step {self.clock.step}; run the same command to go on"
    self.log.event(self.clock.step, text)
    raise Interrupted(signum, text)

  def _begin(self) -> TrainState:
    """Returns the state of step 0."""
    if self.beginning.loaded is not None:
      self.log.event(0, str(self.beginning.loaded.report))
    return self.devices.replicate(self.phases[0].begin(0, *self.beginning.variables()))

  def _restore(self) -> TrainState | None:
    """Returns the state of the newest readable checkpoint, with the iterator and the clock set to it."""

    def shapes(clock: Clock) -> TrainState:
      phase = self.phases[min(clock.phase, len(self.phases) - 1)]
      return jax.eval_shape(lambda v: phase.begin(0, *v), self.beginning.shapes)

    found = self.checkpoints.restore_newest(shapes, self.iterator, lambda text: self.log.event(0, f"warning: {text}"))
    if found is None:
      return None
    state, self.clock = found
    self.log.seconds = self.clock.seconds
    self.log.event(self.clock.step, f"resumed from step {self.clock.step}")
    return self.devices.replicate(state)

  def _stays_on_host(self, split: str) -> bool:
    if self.settings.data.residence == "auto":
      return len(self.arrays.rows(split)) * self.arrays.image[0].nbytes > _RESIDENT_BYTES
    return self.settings.data.residence == "host"

  def _resident(self, split: str) -> Resident:
    if self.host[split]:
      return Resident()
    image = np.asarray(self.arrays.image)[self.arrays.rows(split)]
    return self.devices.replicate(Resident(image, pipeline.targets(self.arrays, split)))

  def _augmented_samples(self) -> np.ndarray:
    """Returns the first training images as the network gets to see them, uint8 [samples, H, W, C]."""
    image = jnp.asarray(self.arrays.image[self.arrays.rows("train")[:_SAMPLES]])
    keys = jax.random.split(jax.random.key(self.settings.seed), len(image))
    return np.asarray(jax.vmap(self.settings.augmentation)(image, keys))


def _steps(whole: int, rows: int, batch_size: int, duration: Any) -> int:
  return duration.steps(whole, rows, batch_size)


def _peak_resident_bytes() -> int:
  """Returns the peak memory of this process: on a CPU, the device's memory too."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
