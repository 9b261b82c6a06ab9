"""Training runs that take seconds: striped images in three classes and a network with a few filters."""

import json
import signal

import jax
import numpy as np

from configs import hsic
from fer_jax.data.arrays import Arrays
from fer_jax.training import loop, train
from fer_jax.training.checkpoint import Checkpoints

ROWS = {"train": 60, "validation": 20, "test": 21}


def tiny_arrays(*args, **kwargs):
  generator = np.random.default_rng(0)
  n = sum(ROWS.values())
  label = np.arange(n, dtype=np.int32) % 3
  image = generator.integers(0, 60, (n, 16, 16, 1), dtype=np.uint8)
  image[label == 0, ::4] += 120  # the class is the direction of the stripes
  image[label == 1, :, ::4] += 120
  split = np.repeat(list(ROWS), list(ROWS.values()))
  subject = np.array([f"P{i % 7}" for i in range(n)])
  return Arrays(image, label, subject, np.arange(n, dtype=np.int32), split, ("a", "b", "c"))


def config(**changes):
  config = hsic.get_config("demo,layerwise")
  config.model.update({"blocks": 1, "convs": 1, "growth": 4, "stem": 4, "pyramid": 4})
  config.phases.bottleneck.objective.group = "layer"
  config.augmentation.update({"flip": 0.0, "shift": 1})
  config.batch_size, config.eval_batch_size = 12, 8
  config.duration, config.evaluate_every, config.checkpoint_every = "30 steps", "10 steps", "5 steps"
  config.update_from_flattened_dict(changes)
  return config


def run(workdir, config, devices=1):
  """Trains and returns the content of result.json."""
  train.train_and_evaluate(config, workdir, "a config", devices=jax.devices()[:devices])
  return json.loads((workdir / "result.json").read_text())


def stop_after(monkeypatch, step):
  """Sends SIGTERM once to a run whose replicas have taken `step` steps."""
  original = loop.TrainingLoop._step
  stopped = []

  def step_and_stop(self, phase, active, progress):
    metrics = original(self, phase, active, progress)
    if active[0].progress.step >= step and not stopped:
      stopped.append(step)
      signal.raise_signal(signal.SIGTERM)
    return metrics

  monkeypatch.setattr(loop.TrainingLoop, "_step", step_and_stop)


def rows(workdir, kind):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [row for row in map(json.loads, lines) if row["kind"] == kind]


def final_state(workdir):
  with Checkpoints(workdir / "checkpoints") as checkpoints:
    return checkpoints.restore_variables(checkpoints.newest_step)


def assert_same(one, two):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_array_equal(a, b)
