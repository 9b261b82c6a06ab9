import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.models.baselines.mini_xception import ConvClassifier, MiniXception
from tests.models.baselines.shapes import count, traced


def test_has_as_many_parameters_and_statistics_as_the_authors():
  # The authors' mini_XCEPTION((64, 64, 1), 7) as Keras counts: 58,423 in all, 56,951 of them trainable.
  found = traced(MiniXception(), 64)
  assert (count(found.params), count(found.stats)) == (56_951, 1_472)
  assert count((found.params, found.stats)) == 58_423


def test_each_module_halves_the_map_rounding_up():
  maps = [output for output in traced(MiniXception()).outputs.values() if len(output.shape) == 4]
  assert [m.shape[1] for m in maps] == [46, 44, 22, 11, 6, 3]


def test_logits_are_the_average_over_places():
  # With nothing but the middle of each kernel, a place's scores are linear in the place, and so is their average.
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 6))
  middle = jax.random.normal(jax.random.key(1), (6, 3))
  params = {"conv": {"kernel": jnp.zeros((3, 3, 6, 3)).at[1, 1].set(middle), "bias": jnp.arange(3.0)}}
  found = ConvClassifier(3).apply({"params": params}, x, train=False)
  np.testing.assert_allclose(found, x.mean(axis=(1, 2)) @ middle + jnp.arange(3.0)[None], atol=1e-5)
