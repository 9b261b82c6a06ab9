"""Config of the run of tests.tiny_run, for `python -m tests.multiprocess.worker`."""

from ml_collections import ConfigDict

from tests import tiny_run


def get_config() -> ConfigDict:
  return tiny_run.config(log_every="1 steps", seed=3)
