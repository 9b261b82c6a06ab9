"""The result of one replica, and its predictions.npz."""

import dataclasses
import resource
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.config.settings import Settings
from fer_jax.data import duplicates, pipeline
from fer_jax.data.arrays import Arrays
from fer_jax.data.mixing import partners
from fer_jax.data.views import PROTOCOLS
from fer_jax.models.network import inference_parameters
from fer_jax.runtime import processes, provenance
from fer_jax.training import calibration
from fer_jax.training.evaluate import Evaluation, averaged, deduplicated, worst_mistakes
from fer_jax.training.loop import FinalEvaluation, TrainingLoop
from fer_jax.training.metrics import METRICS, per_class
from fer_jax.training.replica_state import ReplicaState
from fer_jax.training.run import Run
from fer_jax.training.run_result import (
  Calibration,
  CalibrationError,
  Input,
  ReplicaResult,
  RunResult,
  Validation,
  ViewResult,
)

WORST_MISTAKES = 48  # number of mistakes shown in the report
_SAMPLES = 24  # number of augmented training images shown in the report

# Evaluations of one replica's best parameters: {split: {protocol of `data.views`: evaluation}}, always with "single".
Evaluations = Mapping[str, Mapping[str, Evaluation]]


def by_protocol(replica: ReplicaState, final: FinalEvaluation) -> Evaluations:
  """Averages the evaluated views, for each TTA protocol.

  Args:
    replica: Replica.
    final: Evaluations of its views.

  Returns:
    Evaluations by split and protocol, for the protocols whose views have all been evaluated.
  """
  arrays = replica.replica.arrays
  target = pipeline.targets(arrays)
  # A protocol with n views averages the first n of `data.views.TEN_CROP`.
  return {
    split: {
      protocol: views[0] if count == 1 else averaged(views[:count], target[arrays.rows(split)])
      for protocol, count in PROTOCOLS.items()
      if count <= len(views)
    }
    for split, views in final.views.items()
  }


def of_replica(
  run: Run, loop: TrainingLoop, replica: ReplicaState, evaluations: Evaluations, final: FinalEvaluation
) -> RunResult:
  """Returns the result of one replica.

  Args:
    run: Run that the replica belongs to.
    loop: Training loop that trained it.
    replica: Replica.
    evaluations: Evaluations by split and protocol, from `by_protocol`.
    final: Evaluations by split and view.
  """
  arrays, progress = replica.replica.arrays, replica.progress
  test, label = evaluations["test"]["single"], _test_label(replica)
  seen = duplicates.duplicated_in_training(arrays, image_id=run.plan.image_id)
  together = len(loop.replicas)
  # A step trains all replicas of the loop, so each is charged its share.
  seconds_a_step = replica.log.seconds_a_step and replica.log.seconds_a_step / together
  parameters = sum(x.size for x in jax.tree.leaves(inference_parameters(run.initialization.shapes[0])))
  loaded = run.initialization.loaded
  return RunResult(
    accuracy=test.accuracy,
    loss=test.loss,
    metrics={name: metric(test.probability, label) for name, metric in METRICS.items()},
    confusion_matrix=tuple(map(tuple, test.confusion.tolist())),
    class_names=tuple(arrays.class_names),
    per_class=per_class(test.confusion, arrays.class_names),
    input=Input(tuple(arrays.image.shape[1:]), arrays.crop),
    deduplicated=deduplicated(test, label, seen),
    views=_views(evaluations, label, seen),
    calibration=_calibration(replica, final),
    validation=Validation(progress.best_accuracy, progress.best_step),
    seconds=loop.watch.seconds,
    clock=run.settings.clock,
    time=loop.watch.times,
    together=together,
    stopped=replica.stopped,
    steps=progress.step,
    process_seconds=provenance.process_seconds(),
    parameters=parameters,
    peak_memory_bytes=loop.placement.peak_memory() or _peak_resident_bytes(),
    dataset=run.settings.data.name,
    notes=(*arrays.notes, *final.notes),
    measured={
      "test accuracy": test.accuracy,
      "validation accuracy": evaluations["validation"]["single"].accuracy,
      "seconds a step": seconds_a_step,
      "seconds an epoch": seconds_a_step and seconds_a_step * run.plan.epoch_rows / run.settings.batch_size,
      "parameters": parameters,
    },
    pretrained=dataclasses.asdict(loaded.report) if loaded is not None else None,
    fold=replica.replica.fold,
    seeds=(replica.replica.seed,),
    runs=(ReplicaResult(replica.replica.seed, test.accuracy, replica.replica.fold),),
    config=run.source,
    device=provenance.device(list(run.devices)),
    processes=processes.count(),
    versions=provenance.versions(),
    commit=run.commit,
  )


def _calibration(replica: ReplicaState, final: FinalEvaluation) -> Calibration:
  """Fits the temperature on the validation split and computes the calibration errors of the test split.

  With several views, each view is scaled before the average is taken, as in `TrainedModel.probability`.
  """
  arrays = replica.replica.arrays
  label = {split: np.asarray(arrays.label)[arrays.rows(split)] for split in final.views}
  temperature = calibration.fit_temperature(final.views["validation"][0].probability, label["validation"])
  test = [view.probability for view in final.views["test"]]
  scaled = [calibration.scale(probability, temperature) for probability in test]

  def error(views: list[np.ndarray], count: int) -> float:
    return calibration.expected_calibration_error(np.mean(views[:count], axis=0), label["test"])

  return Calibration(
    temperature,
    {
      protocol: CalibrationError(error(test, count), error(scaled, count))
      for protocol, count in PROTOCOLS.items()
      if count <= len(test)
    },
  )


def _views(evaluations: Evaluations, label: np.ndarray, seen: np.ndarray) -> dict[str, ViewResult]:
  """Returns the results by TTA protocol; {} if only "single" was evaluated."""
  if len(evaluations["test"]) == 1:
    return {}
  return {
    protocol: ViewResult(
      validation=evaluations["validation"][protocol].accuracy,
      test=test.accuracy,
      loss=test.loss,
      deduplicated=deduplicated(test, label, seen).accuracy,
    )
    for protocol, test in evaluations["test"].items()
  }


def write_predictions(
  replica: ReplicaState, evaluations: Evaluations, settings: Settings, image_id: np.ndarray
) -> None:
  """Writes predictions.npz of a replica: test probabilities, worst mistakes, and samples of training images.

  It also contains the probabilities on the validation split and those of averaged views, for `apps.ensemble`.

  Args:
    replica: Replica.
    evaluations: Evaluations of the replica by split and protocol, from `by_protocol`.
    settings: Settings of the run.
    image_id: Number of each row's distinct image, int32 [N], from `duplicates.image_ids`; equal images share a number.
  """
  arrays = replica.replica.arrays
  rows, validation = arrays.rows("test"), arrays.rows("validation")
  label = _test_label(replica)
  test = evaluations["test"]["single"]
  worst = worst_mistakes(test.probability, label, WORST_MISTAKES)
  replica.folder.write_arrays(
    "predictions.npz",
    index=rows,
    label=label,
    probability=test.probability,
    worst=worst,
    worst_image=arrays.image[rows[worst]],
    sample_image=_samples(arrays, settings, replica.replica.seed),
    seen=duplicates.duplicated_in_training(arrays, image_id=image_id),
    validation_index=validation,
    validation_label=np.asarray(arrays.label)[validation],
    **{f"{split}_{protocol}": each.probability for split, of in evaluations.items() for protocol, each in of.items()},
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


def _test_label(replica: ReplicaState) -> np.ndarray:
  arrays = replica.replica.arrays
  return np.asarray(arrays.label)[arrays.rows("test")]


def _peak_resident_bytes() -> int:
  """Returns the peak resident memory of this process in bytes; on a CPU it includes the device memory."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024  # macOS reports bytes, Linux kilobytes
