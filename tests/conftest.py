"""The rules that every test runs under: four CPU devices, strict rank promotion, no key used twice."""

import os

# Before jax wakes up: tests compile hundreds of small programs and run each a few times.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(scope="module")
def tiny_data():
  """Puts the striped pictures of tests.tiny_run in the place of whatever dataset a run asks for."""
  from fer_jax.data import arrays
  from tests.tiny_run import tiny_arrays

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(arrays, "load", tiny_arrays)
    yield
