"""One process of a run: fer_jax.main, with the same flags, on the striped pictures of tests.tiny_run."""

from fer_jax import errors, main
from fer_jax.data import arrays
from tests.tiny_run import tiny_arrays

if __name__ == "__main__":
  arrays.load = tiny_arrays
  errors.run(main.main)
