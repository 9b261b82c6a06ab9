"""What a run has found: the result of one training, and of several together."""

import dataclasses
import resource
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.data import audit
from fer_jax.data.augment import Augmentation
from fer_jax.evaluate import Evaluation, per_class, worst_mistakes
from fer_jax.intervals import student_interval
from fer_jax.lockstep import Lockstep, Member
from fer_jax.workdir import Workdir

Result = dict[str, Any]

_WORST = 48  # mistakes kept for the report's gallery
_SAMPLES = 24  # augmented training images kept for the report


def of_training(run: Lockstep, number: int, test: Evaluation, notes: Sequence[str]) -> Result:
  """Returns what one training has found, as result.json holds it, but for where it was run."""
  member, rig = run.members[number], run.rig
  replica, clock = member.replica, member.clock
  together = len(run.members)
  seconds_a_step = member.log.seconds_a_step and member.log.seconds_a_step / together
  parameters = sum(x.size for x in jax.tree.leaves(rig.beginning.shapes[0]))
  loaded = rig.beginning.loaded
  return {
    "accuracy": test.accuracy,
    "loss": test.loss,
    "confusion_matrix": test.confusion.tolist(),
    "class_names": list(replica.arrays.class_names),
    "per_class": per_class(test.confusion, replica.arrays.class_names),
    "deduplicated": _deduplicated(member, test, rig.picture),
    "validation": {"accuracy": clock.best_accuracy, "step": clock.best_step},
    "seconds": run.watch.seconds,
    "time": run.watch.times,
    "together": together,
    "stopped": member.stopped,
    "steps": clock.step,
    "parameters": parameters,
    "peak_memory_bytes": run.placement.peak_memory() or _peak_resident_bytes(),
    "dataset": rig.settings.data.name,
    "notes": [*replica.arrays.notes, *notes],
    "measured": {"test accuracy": test.accuracy, "seconds a step": seconds_a_step, "parameters": parameters},
    "pretrained": dataclasses.asdict(loaded.report) if loaded is not None else None,
    "fold": replica.fold,
    "seeds": [replica.seed],
    "runs": [{"seed": replica.seed, "fold": replica.fold, "accuracy": test.accuracy}],
  }


def write_predictions(member: Member, test: Evaluation, augmentation: Augmentation) -> None:
  """Writes a training's predictions.npz: its test rows, their probabilities, the worst mistakes, samples."""
  arrays = member.replica.arrays
  rows = arrays.rows("test")
  label = np.asarray(arrays.label)[rows]
  worst = worst_mistakes(test.probability, label, _WORST)
  image = jnp.asarray(arrays.image[arrays.rows("train")[:_SAMPLES]])
  keys = jax.random.split(jax.random.key(member.replica.seed), len(image))
  member.folder.write_arrays(
    "predictions.npz",
    index=rows,
    label=label,
    probability=test.probability,
    worst=worst,
    worst_image=np.asarray(arrays.image)[rows[worst]],
    sample_image=np.asarray(jax.vmap(augmentation)(image, keys)),
  )


def together(names: Sequence[str], results: Sequence[Result]) -> Result:
  """Returns what several trainings of one configuration have found: mean, spread, and the sum of their confusions.

  Args:
    names: of the trainings.
    results: of each, as `of_training` made them.
  """
  accuracies = [result["accuracy"] for result in results]
  confusion = np.sum([result["confusion_matrix"] for result in results], axis=0)
  validation = statistics.fmean(result["validation"]["accuracy"] for result in results)
  first = results[0]
  known = [r["measured"]["seconds a step"] for r in results if r["measured"]["seconds a step"] is not None]
  return {
    "accuracy": statistics.fmean(accuracies),
    "mean": statistics.fmean(accuracies),
    "std": statistics.stdev(accuracies),
    "interval_95": list(student_interval(accuracies)),
    "pooled_accuracy": float(np.trace(confusion) / confusion.sum()),
    "loss": statistics.fmean(result["loss"] for result in results),
    "confusion_matrix": confusion.tolist(),
    "class_names": first["class_names"],
    "per_class": per_class(confusion, first["class_names"]),
    "deduplicated": _mean_deduplicated([result["deduplicated"] for result in results]),
    "validation": {"accuracy": validation, "step": None},
    "steps": statistics.fmean(result["steps"] for result in results),
    "stopped": ", ".join(sorted({result["stopped"] for result in results})),
    "parameters": first["parameters"],
    "peak_memory_bytes": max(result["peak_memory_bytes"] for result in results),
    "dataset": first["dataset"],
    "notes": list(dict.fromkeys(note for result in results for note in result["notes"])),
    "measured": {
      "test accuracy": statistics.fmean(accuracies),
      "seconds a step": statistics.median(known) if known else None,
      "parameters": first["parameters"],
    },
    "pretrained": first["pretrained"],
    "seeds": sorted({seed for result in results for seed in result["seeds"]}),
    "runs": [_run(name, result) for name, result in zip(names, results, strict=True)],
  }


def pool_predictions(folders: Sequence[Workdir], into: Workdir) -> None:
  """Writes the predictions of several trainings as one predictions.npz, with the number of each row's training."""
  loaded = []
  for folder in folders:
    with np.load(folder.path / "predictions.npz") as file:
      loaded.append(dict(file))
  pooled = {key: np.concatenate([each[key] for each in loaded]) for key in ("index", "label", "probability")}
  worst = worst_mistakes(pooled["probability"], pooled["label"], _WORST)
  # Every training kept the pictures of its own worst, and the worst of all are among those.
  starts = np.cumsum([0, *(len(each["label"]) for each in loaded[:-1])])
  pictures = {
    start + position: picture
    for start, each in zip(starts.tolist(), loaded, strict=True)
    for position, picture in zip(each["worst"].tolist(), each["worst_image"], strict=True)
  }
  shape = loaded[0]["worst_image"].shape[1:]
  into.write_arrays(
    "predictions.npz",
    **pooled,
    replica=np.repeat(np.arange(len(loaded), dtype=np.int32), [len(each["label"]) for each in loaded]),
    worst=worst,
    worst_image=np.array([pictures[position] for position in worst.tolist()], np.uint8).reshape(-1, *shape),
    sample_image=loaded[0]["sample_image"],
  )


def _run(name: str, result: Mapping[str, Any]) -> Result:
  return {
    "name": name,
    "seed": result["seeds"][0],
    "fold": result["fold"],
    "validation_accuracy": result["validation"]["accuracy"],
    "best_step": result["validation"]["step"],
    "images": int(np.sum(result["confusion_matrix"])),
    **{key: result[key] for key in ("accuracy", "loss", "steps", "stopped", "seconds", "deduplicated")},
  }


def _deduplicated(member: Member, test: Evaluation, picture: np.ndarray) -> Result:
  """Returns the accuracy over the test images that do not stand, pixel by pixel, in the training split."""
  arrays = member.replica.arrays
  fresh = ~audit.seen_in_training(arrays, picture=picture)
  right = test.probability.argmax(axis=1) == np.asarray(arrays.label)[arrays.rows("test")]
  accuracy = float(right[fresh].mean()) if fresh.any() else None
  return {"accuracy": accuracy, "images": int(fresh.sum()), "seen": int((~fresh).sum())}


def _mean_deduplicated(found: Sequence[Mapping[str, Any]]) -> Result:
  known = [each["accuracy"] for each in found if each["accuracy"] is not None]
  return {
    "accuracy": statistics.fmean(known) if known else None,
    **{key: sum(each[key] for each in found) for key in ("images", "seen")},
  }


def _peak_resident_bytes() -> int:
  """Returns the peak memory of this process: on a CPU, the device's memory too."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
