"""Fixtures shared by the tests of the programs: configs of tiny networks and a workdir."""

from pathlib import Path

import pytest

TINY = """
from configs import hsic
def get_config(variant=""):
  config = hsic.get_config(f"layerwise,{variant}".strip(","))
  config.batch_size = 8
  config.model.update({"blocks": 1, "convs": 1, "growth": 4, "stem": 4, "pyramid": 4})
  return config
"""


@pytest.fixture
def write_config(tmp_path):
  """Function that writes the source of a config to a file and returns its path."""

  def write(source):
    path = tmp_path / "tiny.py"
    path.write_text(source)
    return str(path)

  return write


@pytest.fixture
def config(write_config):
  """Path of the HSIC config with a network of four channels."""
  return write_config(TINY)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
  """Path of a run's workdir, which does not exist yet."""
  return tmp_path / "run"
