"""Results of a run, as written to result.json and predictions.npz: of one replica, and combined over several."""

import dataclasses
import resource
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.config.settings import Settings
from fer_jax.data import duplicates, pipeline
from fer_jax.data.arrays import Arrays
from fer_jax.data.mixing import partners
from fer_jax.data.views import PROTOCOLS
from fer_jax.runtime import provenance
from fer_jax.training import calibration
from fer_jax.training.evaluate import Evaluation, averaged, deduplicated, per_class, worst_mistakes
from fer_jax.training.intervals import student_interval
from fer_jax.training.loop import Member, Tested, TrainingLoop
from fer_jax.training.workdir import Workdir

Result = dict[str, Any]

_WORST = 48  # number of mistakes shown in the report
_SAMPLES = 24  # number of augmented training images shown in the report


# Evaluations of one replica's best parameters: {split: {protocol of `data.views`: evaluation}}, always with "single".
Answers = Mapping[str, Mapping[str, Evaluation]]


def answers(member: Member, tested: Tested) -> Answers:
  """Averages the evaluated views, for each TTA protocol.

  Args:
    member: Replica.
    tested: Evaluations of its views.

  Returns:
    Evaluations by split and protocol, for the protocols whose views have all been evaluated.
  """
  target = pipeline.targets(member.replica.arrays)
  # A protocol with n views averages the first n of `data.views.TEN_CROP`.
  return {
    split: {
      protocol: views[0] if count == 1 else averaged(views[:count], target[member.replica.arrays.rows(split)])
      for protocol, count in PROTOCOLS.items()
      if count <= len(views)
    }
    for split, views in tested.views.items()
  }


def calibrated(member: Member, tested: Tested) -> Result:
  """Computes the calibration of a replica: its temperature and calibration errors of the test split.

  The temperature is fitted on the validation split. With several views, each view is scaled before the average is
  taken, as in `TrainedModel.probability`.

  Args:
    member: Replica.
    tested: Evaluations of its views.

  Returns:
    Temperature, and for each protocol the expected calibration error without ("error") and with ("error_scaled")
    temperature scaling.
  """
  arrays = member.replica.arrays
  label = {split: np.asarray(arrays.label)[arrays.rows(split)] for split in tested.views}
  temperature = calibration.fit_temperature(tested.views["validation"][0].probability, label["validation"])
  test = [view.probability for view in tested.views["test"]]
  scaled = [calibration.scale(probability, temperature) for probability in test]
  return {
    "temperature": temperature,
    "test": {
      protocol: {
        name: calibration.expected_calibration_error(np.mean(views[:count], axis=0), label["test"])
        for name, views in (("error", test), ("error_scaled", scaled))
      }
      for protocol, count in PROTOCOLS.items()
      if count <= len(test)
    },
  }


def of_training(run: TrainingLoop, number: int, found: Answers, tested: Tested) -> Result:
  """Returns the result of one replica as stored in result.json, without the provenance (config, device, versions).

  Args:
    run: Training loop.
    number: Index of the replica in the loop.
    found: Evaluations of the replica by split and protocol, from `answers`.
    tested: Evaluations of the replica by split and view.
  """
  member, rig = run.members[number], run.rig
  test = found["test"]["single"]
  seen = duplicates.seen_in_training(member.replica.arrays, image_id=rig.image_id)
  replica, clock = member.replica, member.clock
  together = len(run.members)
  # A lockstep step trains all replicas, so each is charged its share.
  seconds_a_step = member.log.seconds_a_step and member.log.seconds_a_step / together
  parameters = sum(x.size for x in jax.tree.leaves(rig.beginning.shapes[0]))
  loaded = rig.beginning.loaded
  return {
    "accuracy": test.accuracy,
    "loss": test.loss,
    "confusion_matrix": test.confusion.tolist(),
    "class_names": list(replica.arrays.class_names),
    "input": {"shape": list(replica.arrays.image.shape[1:]), "crop": replica.arrays.crop},
    "per_class": per_class(test.confusion, replica.arrays.class_names),
    "deduplicated": deduplicated(test, _test_label(member), seen),
    "views": _views(member, found, seen),
    "calibration": calibrated(member, tested),
    "validation": {"accuracy": clock.best_accuracy, "step": clock.best_step},
    "seconds": run.watch.seconds,
    "clock": rig.settings.clock,
    "time": run.watch.times,
    "together": together,
    "stopped": member.stopped,
    "steps": clock.step,
    "process_seconds": provenance.process_seconds(),
    "parameters": parameters,
    "peak_memory_bytes": run.placement.peak_memory() or _peak_resident_bytes(),
    "dataset": rig.settings.data.name,
    "notes": [*replica.arrays.notes, *tested.notes],
    "measured": {
      "test accuracy": test.accuracy,
      "validation accuracy": found["validation"]["single"].accuracy,
      "seconds a step": seconds_a_step,
      "seconds an epoch": seconds_a_step and seconds_a_step * rig.epoch_rows / rig.settings.batch_size,
      "parameters": parameters,
    },
    "pretrained": dataclasses.asdict(loaded.report) if loaded is not None else None,
    "fold": replica.fold,
    "seeds": [replica.seed],
    "runs": [{"seed": replica.seed, "fold": replica.fold, "accuracy": test.accuracy}],
  }


def write_predictions(member: Member, found: Answers, settings: Settings, image_id: np.ndarray) -> None:
  """Writes predictions.npz of a replica: test probabilities, worst mistakes, and samples of training images.

  It also contains the probabilities on the validation split and those of averaged views, for `apps.ensemble`.

  Args:
    member: Replica.
    found: Evaluations of the replica by split and protocol, from `answers`.
    settings: Settings of the run.
    image_id: Index of each row's distinct image, int32 [N], from `duplicates.image_ids`; equal images share an index.
  """
  arrays = member.replica.arrays
  rows, validation = arrays.rows("test"), arrays.rows("validation")
  label = _test_label(member)
  test = found["test"]["single"]
  worst = worst_mistakes(test.probability, label, _WORST)
  member.folder.write_arrays(
    "predictions.npz",
    index=rows,
    label=label,
    probability=test.probability,
    worst=worst,
    worst_image=arrays.image[rows[worst]],
    sample_image=_samples(arrays, settings, member.replica.seed),
    seen=duplicates.seen_in_training(arrays, image_id=image_id),
    validation_index=validation,
    validation_label=np.asarray(arrays.label)[validation],
    **{f"{split}_{protocol}": each.probability for split, of in found.items() for protocol, each in of.items()},
  )


def _samples(arrays: Arrays, settings: Settings, seed: int) -> np.ndarray:
  """Returns augmented and mixed training images before standardisation, uint8 [S, H, W, C], with S <= 24."""
  rows = arrays.rows("train")[:_SAMPLES]
  image, target = jnp.asarray(arrays.image[rows]), jnp.asarray(pipeline.targets(arrays)[rows])
  augment_key, mix_key, partner_key = jax.random.split(jax.random.key(seed), 3)
  shown = jax.jit(jax.vmap(settings.augmentation))(image, jax.random.split(augment_key, len(rows)))
  if settings.mixing.active:
    # Mixing needs floats and a partner for each image: [S, H, W, C] float32.
    shown = shown.astype(jnp.float32)
    other = partners(len(rows), partner_key)
    keys = jax.random.split(mix_key, len(rows))
    shown, _ = jax.jit(jax.vmap(settings.mixing))(shown, target, shown[other], target[other], keys)
  return np.asarray(jnp.round(shown)).astype(np.uint8)


def together(names: Sequence[str], results: Sequence[Result]) -> Result:
  """Combines the results of several replicas: mean, spread, and the sum of the confusion matrices.

  Args:
    names: Names of the replicas.
    results: Results of the replicas, from `of_training`.
  """
  accuracies = [result["accuracy"] for result in results]
  # [R, K, K] -> [K, K]
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
    "input": first["input"],
    "per_class": per_class(confusion, first["class_names"]),
    "deduplicated": _mean_deduplicated([result["deduplicated"] for result in results]),
    "views": _mean_views([result["views"] for result in results]),
    "validation": {"accuracy": validation, "step": None},
    "clock": first["clock"],
    "steps": statistics.fmean(result["steps"] for result in results),
    "stopped": ", ".join(sorted({result["stopped"] for result in results})),
    "parameters": first["parameters"],
    "peak_memory_bytes": max(result["peak_memory_bytes"] for result in results),
    "dataset": first["dataset"],
    "notes": list(dict.fromkeys(note for result in results for note in result["notes"])),
    "measured": {
      "test accuracy": statistics.fmean(accuracies),
      "validation accuracy": validation,
      "seconds a step": statistics.median(known) if known else None,
      "parameters": first["parameters"],
    },
    "pretrained": first["pretrained"],
    "seeds": sorted({seed for result in results for seed in result["seeds"]}),
    "runs": [_run(name, result) for name, result in zip(names, results, strict=True)],
  }


def pool_predictions(folders: Sequence[Workdir], into: Workdir) -> None:
  """Writes the predictions of several replicas as one predictions.npz, with the replica index of each row.

  Args:
    folders: Run folders of the replicas.
    into: Run folder that receives the file.
  """
  loaded = []
  for folder in folders:
    with np.load(folder.path / "predictions.npz") as file:
      loaded.append(dict(file))
  pooled = {key: np.concatenate([each[key] for each in loaded]) for key in ("index", "label", "probability")}
  worst = worst_mistakes(pooled["probability"], pooled["label"], _WORST)
  # Each replica stores only the images of its worst mistakes; the worst mistakes over all replicas are among them.
  starts = np.cumsum([0, *(len(each["label"]) for each in loaded[:-1])])
  # Key: row in the concatenated arrays, which is the row within the replica plus the replica's first row.
  images = {
    start + position: image
    for start, each in zip(starts.tolist(), loaded, strict=True)
    for position, image in zip(each["worst"].tolist(), each["worst_image"], strict=True)
  }
  shape = loaded[0]["worst_image"].shape[1:]
  into.write_arrays(
    "predictions.npz",
    **pooled,
    replica=np.repeat(np.arange(len(loaded), dtype=np.int32), [len(each["label"]) for each in loaded]),
    worst=worst,
    worst_image=np.array([images[position] for position in worst.tolist()], np.uint8).reshape(-1, *shape),
    sample_image=loaded[0]["sample_image"],
  )


def unequal_steps(runs: Sequence[Mapping[str, Any]], planned: int) -> str:
  """Returns a note if a time budget led to different numbers of steps, with the reason; "" otherwise.

  Args:
    runs: Entries of the replicas, from `together`.
    planned: Number of steps planned for each replica; 0 if the clock alone decided.
  """
  if len({run["steps"] for run in runs}) == 1 or all(run["stopped"] != "time budget" for run in runs):
    return ""
  taken = ", ".join(f"{run['name']} {run['steps']} ({run['stopped']})" for run in runs)
  late = any(run["stopped"] == "time budget" and run["steps"] < planned for run in runs)
  why = f"; {planned} were planned, but steps became slower than measured at the start, and the clock ended runs" * late
  return f"the runs took different numbers of steps: {taken}{why}"


def _run(name: str, result: Mapping[str, Any]) -> Result:
  """Returns the entry of one replica in the result of several."""
  return {
    "name": name,
    "seed": result["seeds"][0],
    "fold": result["fold"],
    "validation_accuracy": result["validation"]["accuracy"],
    "best_step": result["validation"]["step"],
    "images": int(np.sum(result["confusion_matrix"])),
    **{key: result[key] for key in ("accuracy", "loss", "steps", "stopped", "seconds", "deduplicated", "views")},
  }


def _test_label(member: Member) -> np.ndarray:
  arrays = member.replica.arrays
  return np.asarray(arrays.label)[arrays.rows("test")]


def _views(member: Member, found: Answers, seen: np.ndarray) -> dict[str, Result]:
  """Returns accuracies and losses by TTA protocol; {} if only "single" was evaluated."""
  if len(found["test"]) == 1:
    return {}
  return {
    protocol: {
      "validation": found["validation"][protocol].accuracy,
      "test": test.accuracy,
      "deduplicated": deduplicated(test, _test_label(member), seen)["accuracy"],
      "loss": test.loss,
    }
    for protocol, test in found["test"].items()
  }


def _mean_views(found: Sequence[Mapping[str, Result]]) -> dict[str, Result]:
  """Returns the mean of each value over the replicas, and the standard deviation of the test accuracy."""
  return {
    protocol: {
      **{key: statistics.fmean(each[protocol][key] for each in found) for key in ("validation", "test", "loss")},
      "deduplicated": _mean_or_none([each[protocol]["deduplicated"] for each in found]),
      "std": statistics.stdev(each[protocol]["test"] for each in found),
    }
    for protocol in found[0]
  }


def _mean_deduplicated(found: Sequence[Mapping[str, Any]]) -> Result:
  """Returns the mean accuracy, and the total numbers of images with and without a duplicate in training."""
  return {
    "accuracy": _mean_or_none([each["accuracy"] for each in found]),
    **{key: sum(each[key] for each in found) for key in ("images", "seen")},
  }


def _mean_or_none(values: Sequence[float | None]) -> float | None:
  """Returns the mean of the values that are not None; None if there are none."""
  known = [value for value in values if value is not None]
  return statistics.fmean(known) if known else None


def _peak_resident_bytes() -> int:
  """Returns the peak resident memory of this process in bytes; on a CPU it includes the device memory."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
