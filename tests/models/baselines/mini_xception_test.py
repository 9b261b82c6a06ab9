import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.models.baselines.mini_xception import ConvClassifier, MiniXception
from tests.models.baselines.shapes import count, traced


def test_has_the_parameter_and_statistics_counts_of_the_authors():
  # Keras counts 58,423 parameters of the authors' mini_XCEPTION((64, 64, 1), 7), of which 56,951 are trainable.
  found = traced(MiniXception(), 64)
  assert (count(found.params), count(found.stats)) == (56_951, 1_472)
  assert count((found.params, found.stats)) == 58_423


def test_modules_halve_the_resolution_and_round_up():
  feature_maps = [output for output in traced(MiniXception()).outputs.values() if len(output.shape) == 4]
  assert [x.shape[1] for x in feature_maps] == [46, 44, 22, 11, 6, 3]


def test_logits_are_averages_over_positions():
  # With only the centre of each kernel nonzero, scores are linear in each position, and therefore in the average.
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 6))
  centre = jax.random.normal(jax.random.key(1), (6, 3))
  params = {"conv": {"kernel": jnp.zeros((3, 3, 6, 3)).at[1, 1].set(centre), "bias": jnp.arange(3.0)}}
  found = ConvClassifier(3).apply({"params": params}, x, train=False)
  np.testing.assert_allclose(found, x.mean(axis=(1, 2)) @ centre + jnp.arange(3.0)[None], atol=1e-5)
