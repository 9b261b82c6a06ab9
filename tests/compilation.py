"""How XLA compiles for the tests, which need hundreds of small programs and run each a few times."""

import os
import tempfile
from importlib import metadata
from pathlib import Path

_FLAGS = [
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
  "--xla_cpu_parallel_codegen_split_count=1",  # one module a program: a core each is all that there is
]
# A third of the seconds that are left, where there is the choice: later XLA knows no other way, and not the flag.
if metadata.version("jaxlib").startswith("0.10."):
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")

FLAGS = " ".join(_FLAGS)  # for XLA_FLAGS, before JAX makes its devices

# Where the programs of one session are kept, for tests, workers and processes that need the same ones. Nothing is
# taken from an earlier session: what cannot be compiled any more would go unseen.
FOLDER = Path(tempfile.gettempdir()) / f"fer_jax-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
