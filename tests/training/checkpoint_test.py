import logging
import shutil
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.data.arrays import Arrays
from fer_jax.data.pipeline import ShuffledBatches, training_iterator
from fer_jax.runtime.errors import UserError
from fer_jax.training.checkpoint import Checkpoints, Progress, read_variables, silence_orbax
from fer_jax.training.step import TrainState

OPTIMIZER = optax.adam(0.1)


def make_iterator(seed=0):
  arrays = Arrays(
    image=np.zeros((10, 1, 1, 1), np.uint8),
    label=np.zeros(10, np.int32),
    subject=np.full(10, ""),
    group=np.arange(10, dtype=np.int32),
    split=np.full(10, "train"),
    class_names=("a",),
  )
  return training_iterator(ShuffledBatches(arrays, "train", 4, seed))


def state_at(step):
  """Returns a state whose values depend on the step."""
  params = {"block": {"kernel": jnp.full((3, 2), step, jnp.float32)}, "classifier": {"bias": jnp.arange(2.0) + step}}
  stats = {"block": {"mean": jnp.full(2, -step, jnp.float32)}, "classifier": {}}
  opt_state = jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), OPTIMIZER.init(params))
  return TrainState(jnp.asarray(step, jnp.int32), params, stats, opt_state)


def shapes(progress):
  del progress
  return jax.eval_shape(lambda: state_at(0))


def progress_at(step):
  return Progress(phase=1, phase_step=step // 2, step=step, seconds=step + 0.5, best_accuracy=0.25, best_step=2)


class Run:
  """Saves steps like a training run, and records the batch that follows each of them."""

  def __init__(self, folder):
    self.folder = folder
    self.next_index = {}

  def save(self, accuracies):
    """Saves {step: validation accuracy or None}."""
    iterator = make_iterator()
    with Checkpoints(self.folder) as checkpoints:
      for step in range(1, max(accuracies) + 1):
        index = next(iterator).index
        self.next_index[step - 1] = index
        if step in accuracies:
          checkpoints.save(state_at(step), iterator, progress_at(step), accuracies[step])
      self.next_index[step] = next(iterator).index

  def restore(self):
    """Returns (state, progress, iterator, warnings) of the newest readable checkpoint."""
    iterator, warnings = make_iterator(), []
    with Checkpoints(self.folder) as checkpoints:
      found = checkpoints.restore_newest(shapes, iterator, warnings.append)
    return (*(found or (None, None)), iterator, warnings)

  def steps(self):
    return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

  def assert_restores(self, step):
    """Asserts that `step` is restored; returns the warnings."""
    state, progress, iterator, warnings = self.restore()
    jax.tree.map(np.testing.assert_array_equal, state, state_at(step))
    assert jax.tree.structure(state) == jax.tree.structure(state_at(step))
    assert progress == progress_at(step)
    np.testing.assert_array_equal(next(iterator).index, self.next_index[step])
    return warnings


@pytest.fixture
def run(tmp_path):
  return Run(tmp_path / "checkpoints")


class TestRoundTrip:
  def test_restores_state_position_and_progress(self, run):
    run.save({7: None})
    assert run.assert_restores(7) == []

  def test_restores_nothing_from_an_empty_folder(self, run):
    state, progress, iterator, warnings = run.restore()
    assert (state, progress, warnings) == (None, None, [])
    np.testing.assert_array_equal(next(iterator).index, next(make_iterator()).index)

  def test_preserves_dtypes(self, run):
    run.save({3: None})
    state = run.restore()[0]
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, state_at(3))

  def test_state_on_several_devices_is_restored_on_the_host(self, run):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    with Checkpoints(run.folder) as checkpoints:
      checkpoints.save(jax.device_put(state_at(5), replicated), make_iterator(), progress_at(5), None)
    state = run.restore()[0]
    assert isinstance(state.params["block"]["kernel"], np.ndarray)
    jax.tree.map(np.testing.assert_array_equal, state, state_at(5))

  def test_restore_variables_needs_no_shapes(self, run):
    run.save({2: 0.5, 3: 0.25})
    with Checkpoints(run.folder) as checkpoints:
      params, stats = checkpoints.restore_variables(2)
    jax.tree.map(np.testing.assert_array_equal, params, state_at(2).params)
    np.testing.assert_array_equal(stats["block"]["mean"], state_at(2).stats["block"]["mean"])

  def test_shapes_can_depend_on_the_progress(self, run):
    run.save({4: None})
    clocks = []
    with Checkpoints(run.folder) as checkpoints:
      checkpoints.restore_newest(
        lambda progress: clocks.append(progress) or shapes(progress), make_iterator(), pytest.fail
      )
    assert clocks == [progress_at(4)]


class TestAsynchronousSave:
  def test_later_changes_are_not_saved(self, run):
    iterator, progress = make_iterator(), progress_at(1)
    next(iterator)
    state = state_at(1).replace(params={"large": np.ones(1 << 20, np.float32)}, opt_state=())
    with Checkpoints(run.folder) as checkpoints:
      checkpoints.save(state, iterator, progress, None)
      state.params["large"][:] = 2
      progress.step, progress.seconds = 99, 99.0
      expected = next(iterator).index
      next(iterator)
    restored_iterator = make_iterator()
    with Checkpoints(run.folder) as checkpoints:
      restored, restored_progress = checkpoints.restore_newest(lambda _: state, restored_iterator, pytest.fail)
    np.testing.assert_array_equal(restored.params["large"], 1)
    assert restored_progress == progress_at(1)
    np.testing.assert_array_equal(next(restored_iterator).index, expected)

  def test_donated_buffers_are_not_read(self, run):
    overwrite = jax.jit(lambda x: x + 1, donate_argnums=0)
    large = jnp.ones(1 << 20)
    state = state_at(1).replace(params={"large": large}, opt_state=())
    shapes_of_state = jax.eval_shape(lambda: state)
    with Checkpoints(run.folder) as checkpoints:
      checkpoints.save(state, make_iterator(), progress_at(1), None)
      for _ in range(4):
        large = overwrite(large)
      large.block_until_ready()
    with Checkpoints(run.folder) as checkpoints:
      restored, _ = checkpoints.restore_newest(lambda _: shapes_of_state, make_iterator(), pytest.fail)
    np.testing.assert_array_equal(restored.params["large"], 1)


class TestRetention:
  def test_keeps_the_newest_two(self, run):
    run.save(dict.fromkeys(range(1, 6)))
    assert run.steps() == [4, 5]

  def test_keeps_the_best(self, run):
    run.save({1: 0.1, 2: 0.9, 3: 0.5, 4: None, 5: 0.7, 6: None})
    assert run.steps() == [2, 5, 6]

  def test_keeps_the_later_of_equally_good_checkpoints(self, run):
    run.save({1: 0.9, 2: 0.9, 3: 0.1, 4: 0.2, 5: None})
    assert run.steps() == [2, 4, 5]

  def test_keeps_the_newest_even_if_it_is_the_worst(self, run):
    run.save({1: 0.9, 2: 0.8, 3: 0.1})
    assert run.steps() == [1, 2, 3]
    assert run.assert_restores(3) == []

  def test_keeps_the_best_of_a_resumed_run(self, run):
    run.save({1: 0.1, 2: 0.9, 3: 0.5})
    with Checkpoints(run.folder) as checkpoints:
      for step in (4, 5, 6):
        checkpoints.save(state_at(step), make_iterator(), progress_at(step), 0.2)
      assert checkpoints.newest_step == 6
    assert run.steps() == [2, 5, 6]

  def test_accepts_an_accuracy_added_later(self, run):
    with Checkpoints(run.folder) as checkpoints:
      for step in range(1, 6):
        checkpoints.save(state_at(step), make_iterator(), progress_at(step), None)
        if step == 2:
          checkpoints.save(state_at(step), make_iterator(), progress_at(step), 0.9)
    assert run.steps() == [2, 4, 5]

  def test_a_step_with_accuracy_is_not_replaced_by_one_without(self, run):
    with Checkpoints(run.folder) as checkpoints:
      checkpoints.save(state_at(1), make_iterator(), progress_at(1), 0.9)
      for step in range(1, 5):
        checkpoints.save(state_at(step), make_iterator(), progress_at(step), None)
    assert run.steps() == [1, 3, 4]


def _files(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


def _truncate_all(folder):
  for path in _files(folder):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty_all(folder):
  for path in _files(folder):
    path.write_bytes(b"")


def _truncate_arrays(folder):
  for path in _files(folder / "state" / "d") + _files(folder / "state" / "ocdbt.process_0"):
    path.write_bytes(path.read_bytes()[:-8])


def _delete_arrays(folder):
  for path in _files(folder / "state"):
    if not path.name.startswith("_"):
      path.unlink()


def _empty_folder(folder):
  shutil.rmtree(folder)
  folder.mkdir()


def _garble(name):
  def garble(folder):
    for path in _files(folder / name):
      path.write_bytes(b"\x00garbage")

  return garble


def _delete(name):
  return lambda folder: shutil.rmtree(folder / name)


DAMAGES = {
  "all files cut short": _truncate_all,
  "all files empty": _empty_all,
  "arrays cut short": _truncate_arrays,
  "arrays gone": _delete_arrays,
  "folder empty": _empty_folder,
  "state gone": _delete("state"),
  "position gone": _delete("data"),
  "progress gone": _delete("progress"),
  "accuracy and progress gone": lambda folder: [_delete("metrics")(folder), _delete("progress")(folder)],
  "state garbled": _garble("state"),
  "position garbled": _garble("data"),
  "progress garbled": _garble("progress"),
}


# After a failed read, further failing reads find orbax's event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestDamaged:
  @pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
  def test_skips_a_damaged_checkpoint_and_reuses_its_step(self, run, damage):
    run.save({2: 0.5, 4: None, 6: 0.25})
    damage(run.folder / "6")
    iterator, warnings = make_iterator(), []
    with Checkpoints(run.folder) as checkpoints:
      state, progress = checkpoints.restore_newest(shapes, iterator, warnings.append)
      jax.tree.map(np.testing.assert_array_equal, state, state_at(4))
      assert progress == progress_at(4)
      np.testing.assert_array_equal(next(iterator).index, run.next_index[4])
      (warning,) = warnings
      assert str(run.folder / "6") in warning
      assert "\n" not in warning
      assert checkpoints.newest_step == 4
      next(iterator)  # the batch of step 6
      checkpoints.save(state_at(6), iterator, progress_at(6), 0.75)
    assert run.assert_restores(6) == []
    assert run.steps() == [4, 6]

  def test_restores_the_oldest_if_all_others_are_damaged(self, run):
    run.save({2: 0.5, 4: None, 6: None})
    for step in (4, 6):
      _truncate_all(run.folder / str(step))
    assert len(run.assert_restores(2)) == 2
    assert run.steps() == [2]

  def test_ignores_a_damaged_older_checkpoint(self, run):
    run.save({4: None, 6: None})
    _truncate_all(run.folder / "4")
    assert run.assert_restores(6) == []

  @pytest.mark.parametrize("damage", [_truncate_all, _empty_folder])
  def test_rejects_a_folder_of_damaged_checkpoints_without_deleting_them(self, run, damage):
    run.save({4: None, 6: None})
    for step in (4, 6):
      damage(run.folder / str(step))
    with (
      Checkpoints(run.folder) as checkpoints,
      pytest.raises(UserError, match=r"none of the checkpoints \[6, 4\] can be read; move the folder away"),
    ):
      checkpoints.restore_newest(shapes, make_iterator(), lambda text: None)
    assert run.steps() == [4, 6]

  def test_rejects_checkpoints_of_version_0_1(self, run):
    run.save({4: None})
    (run.folder / "4" / "progress").rename(run.folder / "4" / "clock")
    with Checkpoints(run.folder) as checkpoints, pytest.raises(UserError, match=r"finish the run with fer_jax 0\.1"):
      checkpoints.restore_newest(shapes, make_iterator(), pytest.fail)
    assert run.steps() == [4]

  @pytest.mark.parametrize("content", ["", "[]", '{"accuracy": "high"}'])
  def test_a_damaged_accuracy_removes_the_rank_of_its_checkpoint(self, run, content):
    run.save({2: 0.5, 4: 0.1})
    (run.folder / "2" / "metrics" / "metrics").write_text(content)
    assert run.assert_restores(4) == []
    with Checkpoints(run.folder) as checkpoints:
      for step in (6, 8):
        checkpoints.save(state_at(step), make_iterator(), progress_at(step), None)
    assert run.steps() == [4, 6, 8]

  def test_ignores_interrupted_saves(self, run):
    run.save({4: None, 6: None})
    (run.folder / "8.orbax-checkpoint-tmp").mkdir()
    assert run.assert_restores(6) == []


def test_reading_logs_nothing(run, caplog):
  run.save({2: None})
  caplog.clear()
  params, _ = read_variables(run.folder, 2)
  np.testing.assert_array_equal(params["block"]["kernel"], state_at(2).params["block"]["kernel"])
  assert caplog.messages == []


def test_silence_orbax_suppresses_only_its_messages(monkeypatch, caplog):
  unraised = []
  monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: unraised.append(unraisable.exc_value))
  asyncio_logger, absl_logger = logging.getLogger("asyncio"), logging.getLogger("absl")
  monkeypatch.setattr(asyncio_logger, "level", asyncio_logger.level)
  monkeypatch.setattr(absl_logger, "level", absl_logger.level)
  silence_orbax()
  other_error = RuntimeError("dictionary changed size during iteration")
  for error in (RuntimeError("Event loop is closed"), other_error):
    sys.unraisablehook(SimpleNamespace(exc_value=error))
  asyncio_logger.error("Task exception was never retrieved")
  logging.getLogger("fer_jax").error("unrelated message")
  assert unraised == [other_error]
  assert caplog.messages == ["unrelated message"]
