"""Configs whose steps take no time."""

import pytest

TINY = """
from configs import hsic
def get_config(variant=""):
  config = hsic.get_config(variant)
  config.batch_size = 8
  config.model.update({"blocks": 1, "convs": 1, "growth": 4, "stem": 4, "pyramid": 4})
  return config
"""


@pytest.fixture
def write_config(tmp_path):
  """Writes a config's source, and returns its path."""

  def write(source):
    path = tmp_path / "tiny.py"
    path.write_text(source)
    return str(path)

  return write


@pytest.fixture
def config(write_config):
  """The path of the HSIC config with a network of four channels."""
  return write_config(TINY)
