import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from fer_jax.data import pipeline
from fer_jax.data.arrays import Arrays
from fer_jax.models.network import Network
from fer_jax.runtime.parallel import Devices
from fer_jax.training.evaluate import Evaluation, averaged, evaluate, worst_mistakes
from fer_jax.training.step import Resident, make_eval_step

CLASSES = 5
ROWS = 23


class Linear(nn.Module):
  """A linear classifier of the pixels."""

  @nn.compact
  def __call__(self, image, train):
    del train
    return nn.Dense(CLASSES)(image.reshape(len(image), -1))


NETWORK = Network(
  layers={"classifier": Linear()},
  walk=lambda apply, image: (apply("classifier", image), image),
  blocks=(),
  classifier="classifier",
)


@pytest.fixture(scope="module")
def arrays():
  """Dataset whose test split has ROWS rows, mixed with training rows."""
  rng = np.random.default_rng(0)
  split = rng.permutation(np.repeat(["test", "train"], [ROWS, 9]))
  size = len(split)
  return Arrays(
    image=rng.integers(0, 256, (size, 4, 3, 1), np.uint8),
    label=rng.integers(0, CLASSES, size).astype(np.int32),
    subject=np.full(size, ""),
    group=np.arange(size, dtype=np.int32),
    split=split,
    class_names=tuple("abcde"),
  )


@pytest.fixture(scope="module")
def variables(arrays):
  params, stats = NETWORK.init(jax.random.key(0), jnp.zeros((1, *arrays.image.shape[1:])))
  kernel = params["classifier"]["Dense_0"]["kernel"]
  params["classifier"]["Dense_0"]["kernel"] = 4 * kernel
  return params, stats


@pytest.fixture(scope="module")
def expected(arrays, variables):
  """Evaluation computed with NumPy in float64."""
  rows = arrays.rows("test")
  image = arrays.image[rows].astype(float).reshape(ROWS, -1)
  image = (image - image.mean(1, keepdims=True)) / image.std(1, keepdims=True)
  layer = {name: np.asarray(value, float) for name, value in variables[0]["classifier"]["Dense_0"].items()}
  logits = image @ layer["kernel"] + layer["bias"]
  probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  label = arrays.label[rows]
  confusion = np.zeros((CLASSES, CLASSES), int)
  np.add.at(confusion, (label, logits.argmax(1)), 1)
  return Evaluation(-np.log(probability[np.arange(ROWS), label]).mean(), confusion, probability)


class TestEvaluate:
  @pytest.mark.parametrize("host", [False, True], ids=["resident", "host"])
  @pytest.mark.parametrize(
    ("count", "batch_size"), [(1, 1), (1, 7), (1, 23), (1, 64), (2, 2), (2, 14), (2, 64), (4, 4), (4, 28), (4, 64)]
  )
  def test_is_independent_of_batch_size_and_device_count(self, arrays, variables, expected, count, batch_size, host):
    devices = Devices(jax.devices()[:count])
    eval_step = devices.compile_eval(make_eval_step(NETWORK, devices.axis_name), "evaluation")
    resident = Resident() if host else Resident(arrays.image, pipeline.targets(arrays))
    batches = pipeline.evaluation_batches(arrays, "test", batch_size, host=host)
    placed = devices.replicate(variables), devices.replicate(resident)
    (found,) = evaluate(eval_step, devices, *placed, [batches], [ROWS])
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    assert found.confusion.dtype == np.int64
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.probability.shape == (ROWS, CLASSES)
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-5)

  def test_accuracy(self, expected):
    assert 0 < expected.accuracy < 1
    assert expected.accuracy == np.trace(expected.confusion) / ROWS


class TestWorstMistakes:
  def test_are_wrong_and_sorted_by_confidence(self):
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(CLASSES), 50)
    label = rng.integers(0, CLASSES, 50)
    found = worst_mistakes(probability, label, 50)
    assert sorted(found) == [i for i in range(50) if probability[i].argmax() != label[i]]
    confidence = probability[found].max(axis=1)
    assert np.all(np.diff(confidence) <= 0)
    np.testing.assert_array_equal(worst_mistakes(probability, label, 3), found[:3])

  def test_ties_are_in_the_order_of_the_split(self):
    confidence = np.tile([0.75, 1.0], 100)
    found = worst_mistakes(np.stack([confidence, 1 - confidence], axis=1), np.ones(200, int), 200)
    assert found.tolist() == [*range(1, 200, 2), *range(0, 200, 2)]

  def test_is_empty_without_mistakes(self):
    assert worst_mistakes(np.eye(3), np.arange(3), 5).tolist() == []


class TestAveraged:
  def test_equals_the_evaluation_of_the_mean_probability(self):
    generator = np.random.default_rng(0)
    probability = generator.dirichlet(np.ones(CLASSES), (4, ROWS)).astype(np.float32)
    label = generator.integers(0, CLASSES, ROWS)
    views = [Evaluation(0.0, np.zeros((CLASSES, CLASSES), np.int64), each) for each in probability]
    found = averaged(views, np.eye(CLASSES)[label])
    mean = probability.astype(float).mean(axis=0)
    np.testing.assert_allclose(found.probability, mean, rtol=1e-6)
    np.testing.assert_array_equal(
      found.confusion, sklearn.metrics.confusion_matrix(label, mean.argmax(1), labels=range(CLASSES))
    )
    assert found.loss == pytest.approx(sklearn.metrics.log_loss(label, mean, labels=range(CLASSES)))

  def test_one_view_is_unchanged(self, expected, arrays):
    found = averaged([expected], pipeline.targets(arrays)[arrays.rows("test")])
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    assert found.loss == pytest.approx(expected.loss)

  def test_zero_probability_has_a_finite_loss(self):
    evaluation = Evaluation(0.0, np.zeros((2, 2), np.int64), np.array([[1.0, 0.0]], np.float32))
    assert 80 < averaged([evaluation], np.array([[0.0, 1.0]])).loss < 90
