import itertools

import numpy as np
import pytest

from fer_jax.data import pipeline
from fer_jax.data.arrays import Arrays
from fer_jax.data.batch import Batch
from fer_jax.data.pipeline import ShuffledBatches, evaluation_batches, training_iterator

ROWS = 10


def make_arrays(split, soft=False):
  rng = np.random.default_rng(0)
  size = len(split)
  return Arrays(
    image=np.arange(size * 6, dtype=np.uint8).reshape(size, 2, 3, 1),
    label=rng.integers(0, 4, size).astype(np.int32),
    subject=np.full(size, ""),
    group=np.arange(size, dtype=np.int32),
    split=np.array(split),
    class_names=tuple("abcd"),
    soft_label=rng.dirichlet(np.ones(4), size).astype(np.float32) if soft else None,
  )


@pytest.fixture(params=["contiguous", "scattered", "soft labels"])
def arrays(request):
  """ROWS training rows and 3 test rows, contiguous or in random order."""
  split = ["test"] * 2 + ["train"] * ROWS + ["test"]
  if request.param == "scattered":
    split = np.random.default_rng(1).permutation(split)
  return make_arrays(split, soft=request.param == "soft labels")


def indices(batches, count):
  """Returns the row indices of the first `count` batches."""
  return np.concatenate([batches[k].index for k in range(count)])


def assert_same_batch(found, expected):
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(one, other)


def assert_rows_match(batch, arrays, split):
  """Asserts that a batch's indices are in the split, and that its images and targets are those of the indices."""
  rows = batch.index
  assert np.isin(rows, arrays.rows(split)).all()
  np.testing.assert_array_equal(batch.image, arrays.image[rows])
  expected = arrays.soft_label[rows] if arrays.soft_label is not None else arrays.label[rows][:, None] == np.arange(4)
  np.testing.assert_array_equal(batch.target, expected)
  assert (batch.image.dtype, batch.target.dtype) == (np.uint8, np.float32)


class TestShuffledBatches:
  @pytest.mark.parametrize("batch_size", [1, 3, 5, 7, 10, 23, 64])
  def test_every_epoch_contains_every_row_once(self, arrays, batch_size):
    epochs = 7
    stream = indices(ShuffledBatches(arrays, "train", batch_size, 0), -(-epochs * ROWS // batch_size))
    for epoch in stream[: epochs * ROWS].reshape(epochs, ROWS):
      assert sorted(epoch) == arrays.rows("train").tolist()

  @pytest.mark.parametrize("batch_size", [3, 23])
  def test_order_is_independent_of_the_batch_size(self, arrays, batch_size):
    stream = indices(ShuffledBatches(arrays, "train", 1, 0), 46)
    other = indices(ShuffledBatches(arrays, "train", batch_size, 0), 46 // batch_size)
    np.testing.assert_array_equal(other, stream[: len(other)])

  def test_random_access_equals_sequential_access(self, arrays):
    in_order = ShuffledBatches(arrays, "train", 7, 0)
    batches = [in_order[k] for k in range(20)]
    for k in (17, 3, 19, 0, 4):
      assert_same_batch(ShuffledBatches(arrays, "train", 7, 0)[k], batches[k])
    for k in (17, 3, 19, 0, 4):  # also after other batches
      assert_same_batch(in_order[k], batches[k])

  def test_epoch_near_the_end_of_the_stream_contains_every_row_once(self, arrays):
    batches = ShuffledBatches(arrays, "train", 5, 0)
    k = len(batches) - 3  # even, so an epoch of two batches begins here
    assert sorted(np.concatenate([batches[k].index, batches[k + 1].index])) == arrays.rows("train").tolist()

  def test_order_differs_between_seeds_and_epochs(self):
    arrays = make_arrays(["train"] * 50)
    first, other = (indices(ShuffledBatches(arrays, "train", 50, seed), 4).reshape(4, 50) for seed in (0, 1))
    orders = {tuple(order) for order in [*first, *other]}
    assert len(orders) == 8
    assert tuple(range(50)) not in orders

  def test_default_batches_hold_indices_only(self, arrays):
    batch = ShuffledBatches(arrays, "train", 4, 0)[0]
    assert (batch.index.dtype, batch.mask.dtype) == (np.int32, bool)
    assert batch.mask.all()
    assert batch.image is None
    assert batch.target is None

  @pytest.mark.parametrize("batch_size", [4, 23])
  def test_host_batches_hold_the_images_and_targets_of_the_same_indices(self, arrays, batch_size):
    on_host = ShuffledBatches(arrays, "train", batch_size, 0, host=True)
    indices_only = ShuffledBatches(arrays, "train", batch_size, 0)
    for k in range(6):
      assert_same_batch(on_host[k][:2], indices_only[k][:2])
      assert_rows_match(on_host[k], arrays, "train")

  @pytest.mark.parametrize("batch_size", [6, 7, 11, 24])
  def test_processes_split_every_global_batch(self, arrays, batch_size):
    whole = ShuffledBatches(arrays, "train", batch_size, 0)
    shares = [ShuffledBatches(arrays, "train", batch_size, 0, process=(i, 3)) for i in range(3)]
    for k in range(12):
      parts = [share[k].index for share in shares]
      np.testing.assert_array_equal(np.concatenate(parts), whole[k].index)
      assert max(map(len, parts)) - min(map(len, parts)) <= 1


class TestTrainingIterator:
  @pytest.mark.parametrize("host", [False, True])
  def test_yields_the_batches_in_order(self, arrays, host):
    batches = ShuffledBatches(arrays, "train", 7, 0, host=host)
    for k, batch in enumerate(itertools.islice(training_iterator(batches), 9)):
      assert isinstance(batch, Batch)
      assert_same_batch(batch, batches[k])

  @pytest.mark.parametrize("taken", [0, 1, 5])
  def test_position_is_saved_and_restored(self, arrays, taken):
    batches = ShuffledBatches(arrays, "train", 7, 0)
    iterator = training_iterator(batches)
    for _ in range(taken):
      next(iterator)
    position = iterator.get_state()
    next(iterator)
    for other in (iterator, training_iterator(batches)):
      other.set_state(position)
      for k in range(taken, taken + 4):
        assert_same_batch(next(other), batches[k])


class TestEvaluationBatches:
  @pytest.mark.parametrize("host", [False, True])
  @pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 64])
  def test_contains_every_row_once_in_order(self, arrays, batch_size, host):
    batches = list(evaluation_batches(arrays, "train", batch_size, host=host))
    assert len(batches) == -(-ROWS // batch_size)
    assert {len(batch.index) for batch in batches} == {batch_size}
    seen = np.concatenate([batch.index[batch.mask] for batch in batches])
    np.testing.assert_array_equal(seen, arrays.rows("train"))
    for batch in batches:
      assert batch.index.dtype == np.int32
      assert np.isin(batch.index, arrays.rows("train")).all()  # padding rows are valid indices
      if host:
        assert_rows_match(batch, arrays, "train")
      else:
        assert batch.image is None

  def test_empty_split_has_no_batches(self, arrays):
    assert list(evaluation_batches(arrays, "validation", 4)) == []
    assert list(evaluation_batches(arrays, "validation", 4, batches=3)) == []

  @pytest.mark.parametrize("host", [False, True])
  def test_surplus_batches_are_masked(self, arrays, host):
    batches = list(evaluation_batches(arrays, "train", 4, host=host, batches=5))
    assert [batch.mask.sum() for batch in batches] == [4, 4, 2, 0, 0]
    for one, other in zip(batches, evaluation_batches(arrays, "train", 4, host=host), strict=False):
      assert_same_batch(one, other)
    assert np.isin(batches[-1].index, arrays.rows("train")).all()


def test_targets_are_one_hot_or_soft_labels(arrays):
  found = pipeline.targets(arrays)
  assert (found.shape, found.dtype) == ((len(arrays), 4), np.float32)
  if arrays.soft_label is None:
    np.testing.assert_array_equal(found.argmax(1), arrays.label)
    np.testing.assert_array_equal(np.sort(found), [[0, 0, 0, 1]] * len(arrays))
  else:
    np.testing.assert_array_equal(found, arrays.soft_label)
