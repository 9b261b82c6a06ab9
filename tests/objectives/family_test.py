"""Each member of the family learns to tell the built-in faces apart, every layer from its own loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data import arrays, pipeline
from fer_jax.data.augment import Augmentation
from fer_jax.data.batch import Batch
from fer_jax.models.hsic_dense import HsicDense
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.optim import Optimizer
from fer_jax.training.step import Resident, StepContext, TrainState, make_eval_step, make_train_step

SIZE, STEPS, BATCH = 32, 300, 64
# pHSIC's own form: similarities to the labels' own, which the trace can take as well.
MATCHING = {"compress": "self", "beta": 2.0, "balanced": False, "grid": 4}
FAMILY = {
  "cka": HsicBottleneck(grid=4),
  "cka, linear kernel": HsicBottleneck(kernel="linear", grid=4),
  "nhsic": HsicBottleneck(measure="nhsic", epsilon=1e-2, grid=4),
  "trace": HsicBottleneck(measure="trace", **MATCHING),
  "phsic": HsicBottleneck(measure="phsic", **MATCHING),
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
  return arrays.load("synthetic_faces", str(tmp_path_factory.mktemp("data")), image_size=SIZE)


def resident(faces, split):
  rows = faces.rows(split)
  return Resident(jnp.asarray(np.asarray(faces.image)[rows]), jnp.asarray(pipeline.targets(faces)[rows]))


@pytest.mark.slow
@pytest.mark.parametrize("member", FAMILY)
def test_learns_the_built_in_faces(faces, member):
  network = HsicDense(blocks=1, convs=1, growth=32, stem=32, pyramid=32, head_grid=4).build(
    faces.num_classes, jnp.float32, None
  )
  train, test = resident(faces, "train"), resident(faces, "test")
  params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1)))
  optimizer = Optimizer(learning_rate=0.02, schedule="cosine", warmup=0.05, clip_norm=100.0).build()
  objective = FAMILY[member].build(network, frozenset(network.layers), None)
  step = jax.jit(make_train_step(objective, optimizer, Augmentation()))
  state = TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))
  generator = np.random.default_rng(0)
  for i in range(STEPS):
    index = generator.integers(0, len(train.image), BATCH).astype(np.int32)
    state, _ = step(state, train, Batch(index, np.ones(BATCH, bool)), StepContext(np.float32(i / STEPS), np.int32(0)))
  every = Batch(np.arange(len(test.image), dtype=np.int32), np.ones(len(test.image), bool))
  sums, _ = jax.jit(make_eval_step(network))((state.params, state.stats), test, every)
  assert np.trace(sums.confusion) / len(test.image) > 0.8
