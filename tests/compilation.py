"""XLA options for the tests, which compile hundreds of small programs and run each of them a few times."""

import os
import tempfile
from importlib import metadata
from pathlib import Path

_FLAGS = [
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
  "--xla_cpu_parallel_codegen_split_count=1",  # one module per program: each test worker has one core
]
# Saves a third of the remaining time with jaxlib 0.10; later versions do not have the flag.
if metadata.version("jaxlib").startswith("0.10."):
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")

FLAGS = " ".join(_FLAGS)  # value of XLA_FLAGS, to be set before JAX creates its devices

# Compilation cache shared by the workers and subprocesses of one test session. It is not reused by later sessions, in
# which programs that no longer compile would otherwise go unnoticed.
FOLDER = Path(tempfile.gettempdir()) / f"fer_jax-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
