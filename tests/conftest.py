"""The rules that every test runs under: four CPU devices, strict rank promotion, no key used twice."""

import os

# Before jax wakes up: tests compile hundreds of small programs and run each a few times.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
