"""Configuration of all tests: four CPU devices, no implicit rank promotion, no reuse of random keys."""

import os
import shutil
import signal

from tests import compilation

# Set before jax is imported; processes started by tests share the cache of compiled programs.
os.environ.setdefault("XLA_FLAGS", compilation.FLAGS)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compilation.FOLDER)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

# A shell's background job ignores Ctrl-C, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest

from fer_jax.runtime import programs, xla

xla.prepare()  # before the first device
programs.stores_traces = False  # tests replace functions of the package
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True, scope="session")
def no_downloads(tmp_path_factory):
  """Hides files that were downloaded on this machine, which would change the default face detector."""
  os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tiny_data():
  """Replaces every dataset that a run loads by the striped images of tests.tiny_run."""
  from fer_jax.data import arrays
  from tests.tiny_run import tiny_arrays

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(arrays, "load", tiny_arrays)
    patch.setattr(programs, "stores_traces", True)  # as in a user's run: these tests replace no traced function
    yield


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, tiny_data):
  """Folder of a finished run of tests.tiny_run."""
  from tests import tiny_run

  folder = tmp_path_factory.mktemp("runs") / "run"
  tiny_run.run(folder, tiny_run.config(duration="10 steps"))
  return folder


def pytest_unconfigure(config: pytest.Config) -> None:
  if not hasattr(config, "workerinput"):  # only the main process, which ends after the workers
    shutil.rmtree(compilation.FOLDER, ignore_errors=True)
